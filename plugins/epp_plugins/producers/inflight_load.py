"""Says how many tokens a request would add to each endpoint: what its lease will count, and `token-load-scorer` adds."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from epp.api import Candidates, Data, Floats, Parameters, PrefixMatch, Request, Services, TokenLoad


class InflightLoadParameters(Parameters):
    """Parameters of `inflight-load-producer`."""

    add_estimated_output_tokens: bool = Field(
        default=False, description="Whether to add an estimate of the tokens the answer will have."
    )
    output_ratio: float = Field(default=1.5, ge=0.0, description="Estimated tokens of the answer for each token of the prompt.")
    max_estimated_output_tokens: int | None = Field(
        default=None, ge=0, description="Upper bound of that estimate; the request's own limit of output tokens is another."
    )
    prefix_match_info_producer_name: str = Field(
        default="", description="The prefix producer whose matches are taken off the prompt; empty for the last configured."
    )
    sync_cross_replica_state: bool = Field(default=True, description="Accepted without effect: replicas share no state yet.")


class InflightLoadProducer:
    """The prompt's tokens that an endpoint does not hold already, and (if configured) the answer's.

    What is in flight is counted by the leases, in the pool. Prefix matches are used when something produces them, but
    this plugin does not ask for them.
    """

    produces: ClassVar[tuple[type[Data], ...]] = (TokenLoad,)
    uses: ClassVar[tuple[type[Data], ...]] = (PrefixMatch,)  # runs after their producer, if there is one

    def __init__(self, parameters: InflightLoadParameters, services: Services) -> None:
        """Take how to estimate."""
        self._parameters = parameters
        self._name = services.name

    def produce(self, request: Request, pool: Candidates) -> None:
        """Attach the `TokenLoad`."""
        tokens = self._uncached(request, pool) + self._output(request)
        request.attach(TokenLoad(tokens), self._name)

    def _uncached(self, request: Request, pool: Candidates) -> Floats:
        prompt = float(request.parsed.prompt_tokens)
        match = request.get(PrefixMatch, self._parameters.prefix_match_info_producer_name)
        if match is None or not match.total or not prompt:
            return np.full(pool.size, prompt)
        # Blocks are cut by bytes and may come to more tokens than an exact count says: then the matched share is what counts.
        block = min(match.block_tokens, prompt / match.total)
        return prompt - match.matched * block

    def _output(self, request: Request) -> float:
        if not self._parameters.add_estimated_output_tokens:
            return 0.0
        bounds = (request.parsed.max_tokens, self._parameters.max_estimated_output_tokens)
        estimate = float(round(request.parsed.prompt_tokens * self._parameters.output_ratio))
        return min([estimate, *(bound for bound in bounds if bound is not None and bound >= 0)])
