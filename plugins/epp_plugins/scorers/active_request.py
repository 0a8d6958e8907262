"""Prefers endpoints with fewer requests in flight from this picker: known at once, without waiting for a scrape."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from epp.api import Candidates, Parameters, Request, Scores


class ActiveRequestParameters(Parameters):
    """Parameters of `active-request-scorer`."""

    idle_threshold: int = Field(
        default=0, description="Up to this many requests in flight an endpoint counts as idle and scores 1."
    )
    max_busy_score: float | None = Field(
        default=None, description="What a busy endpoint may score at most; 1 when absent or outside of 0 to 1."
    )
    request_timeout: str = Field(default="", description="Accepted without effect: the end of a request is known, not guessed.")
    in_flight_load_producer_name: str = Field(
        default="", description="Accepted without effect: the pool counts what is in flight."
    )


class ActiveRequestScorer:
    """1 for an idle endpoint; a busy one scores less the nearer it is to the busiest, which scores 0."""

    def __init__(self, parameters: ActiveRequestParameters) -> None:
        """Take the threshold and the gap between idle and busy."""
        ceiling = parameters.max_busy_score
        self._idle = max(0, parameters.idle_threshold)
        self._ceiling = ceiling if ceiling is not None and 0.0 <= ceiling <= 1.0 else 1.0

    def score(self, request: Request, pool: Candidates) -> Scores:
        """Rate by leases."""
        inflight = pool.inflight_requests
        busiest = inflight.max()
        if busiest <= self._idle:
            return pool.full(1.0)
        return np.where(inflight <= self._idle, 1.0, (busiest - inflight) / busiest * self._ceiling)
