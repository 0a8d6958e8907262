"""The view of the pool that plugins get: some rows of the table, read-only by convention, valid until the next await."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from epp.endpoints.endpoint import Endpoint
    from epp.endpoints.pool import Pool

Floats: TypeAlias = npt.NDArray[np.float64]
Mask: TypeAlias = npt.NDArray[np.bool_]
Rows: TypeAlias = npt.NDArray[np.intp]

#: Columns that do not come from scraping, so they cannot be too old: counted or observed by the picker itself.
OWN = frozenset({"inflight_requests", "inflight_tokens", "unreachable", "ttft", "scraped_at"})


class Candidates:
    """The endpoints that are still in the running for one request: n of them, in the pool's order.

    Every column is an array of n floats, NaN where unknown. Data that a producer attached over the whole pool is
    cut to the candidates by `take`.
    """

    __slots__ = ("_pool", "_stale", "rows")

    def __init__(self, pool: Pool, rows: Rows, stale: Mask | None = None) -> None:
        """View `rows` of `pool`; signals of the pool's rows that are `stale` are too old to be known."""
        self._pool = pool
        self._stale = stale
        self.rows = rows
        rows.flags.writeable = False

    def __len__(self) -> int:
        """Count the candidates."""
        return len(self.rows)

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """The candidates themselves."""
        endpoints = self._pool.endpoints
        if len(self.rows) == len(endpoints):
            return endpoints
        return tuple(endpoints[row] for row in self.rows.tolist())

    @property
    def size(self) -> int:
        """How many endpoints the whole pool has: the length of what producers attach."""
        return len(self._pool.endpoints)

    @property
    def waiting(self) -> Floats:
        """Requests queued at the model server."""
        return self._signal("waiting")

    @property
    def running(self) -> Floats:
        """Requests running at the model server."""
        return self._signal("running")

    @property
    def kv_usage(self) -> Floats:
        """Used share of the KV cache, 0..1."""
        return self._signal("kv_usage")

    @property
    def inflight_requests(self) -> Floats:
        """Requests this picker has in flight there; always known."""
        return self._pool.columns["inflight_requests"][self.rows]

    @property
    def inflight_tokens(self) -> Floats:
        """Uncached prompt tokens this picker has sent there that have not yielded a first token; always known."""
        return self._pool.columns["inflight_tokens"][self.rows]

    @property
    def ttft(self) -> Floats:
        """Moving average of the time to first token, seconds."""
        return self._pool.columns["ttft"][self.rows]

    @property
    def age(self) -> Floats:
        """Seconds since the last successful scrape."""
        return self._pool.clock() - self._pool.columns["scraped_at"][self.rows]

    def attribute(self, key: str) -> Floats:
        """Give a custom metric (`customMetrics[].attributeKey`) or any column by name; all NaN when nobody fills it."""
        column = self._pool.attribute(key)
        return column[self.rows] if key in OWN else self._signal(key)

    def _signal(self, name: str) -> Floats:
        values = self._pool.columns[name][self.rows]  # a copy
        if self._stale is not None:
            values[self._stale[self.rows]] = np.nan
        return values

    def label(self, key: str) -> npt.NDArray[np.object_]:
        """Give the value of label `key` for each candidate, None where absent."""
        return self._pool.label(key)[self.rows]

    def with_adapter(self, name: str, *, waiting: bool = False) -> Mask:
        """Tell which candidates have LoRA adapter `name` active (or, `waiting`, about to be loaded)."""
        return self._pool.with_adapter(name, waiting=waiting)[self.rows]

    def full(self, value: float) -> Floats:
        """Give `value` for each candidate."""
        return np.full(len(self.rows), value)

    def take(self, over_pool: Floats) -> Floats:
        """Cut an array over the whole pool (length `size`) to the candidates."""
        return over_pool[self.rows]

    def keep(self, mask: Mask) -> Candidates:
        """Give the candidates where `mask` is true."""
        return Candidates(self._pool, self.rows[mask], self._stale)
