"""The lease: an endpoint's load counted from the choice to the end of the request, whatever the end is.

A lease is closed exactly once in effect: `end()` may be called from every place that learns of the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

    from epp.endpoints.endpoint import Endpoint
    from epp.endpoints.pool import Pool


class Lease:
    """One request in flight on one endpoint, made by `Pool.reserve`."""

    __slots__ = ("_pool", "endpoint", "live", "tokens")

    def __init__(self, pool: Pool, endpoint: Endpoint, tokens: float) -> None:
        """Count `tokens` uncached prompt tokens and one request on `endpoint`."""
        self._pool = pool
        self.endpoint = endpoint
        self.tokens = tokens
        self.live = True
        pool.count(endpoint, 1, tokens)

    def first_token(self) -> None:
        """The prompt has been computed: its tokens no longer wait there. The request still runs."""
        if self.live and self.tokens:
            self._pool.count(self.endpoint, 0, -self.tokens)
            self.tokens = 0.0

    def end(self) -> None:
        """The request is over, by whatever cause. Further calls change nothing."""
        if self.live:
            self.live = False
            self._pool.count(self.endpoint, -1, -self.tokens)
            self.tokens = 0.0

    def __enter__(self) -> Self:
        """Hold the lease for a block."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Release by leaving the block."""
        self.end()
