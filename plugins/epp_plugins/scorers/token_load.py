"""Prefers endpoints with fewer prompt tokens still to be computed, this request's own included."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from epp.api import Candidates, Data, Parameters, Request, Scores, TokenLoad

DEFAULT_THRESHOLD = 4_194_304  # 128 requests of 32 Ki tokens


class TokenLoadParameters(Parameters):
    """Parameters of `token-load-scorer`."""

    queue_threshold_tokens: int = Field(
        default=DEFAULT_THRESHOLD,
        description="Tokens in flight from which an endpoint scores 0; values below 1 mean the default.",
    )
    in_flight_load_producer_name: str = Field(
        default="",
        description="The `inflight-load-producer` whose estimate of this request is used; empty for the last configured.",
    )


class TokenLoadScorer:
    """1 for an endpoint that would compute nothing, falling to 0 at the threshold."""

    needs: ClassVar[tuple[type[Data], ...]] = (TokenLoad,)

    def __init__(self, parameters: TokenLoadParameters) -> None:
        """Take the threshold and whose estimate to use."""
        threshold = parameters.queue_threshold_tokens
        self._threshold = float(threshold if threshold > 0 else DEFAULT_THRESHOLD)
        self._producer = parameters.in_flight_load_producer_name

    def score(self, request: Request, pool: Candidates) -> Scores:
        """Rate by tokens in flight and what `request` would add."""
        tokens = pool.inflight_tokens
        load = request.get(TokenLoad, self._producer)
        if load is not None:
            tokens += pool.take(load.tokens)
        return 1.0 - np.minimum(tokens, self._threshold) / self._threshold
