"""Prefers endpoints whose queue is short against a fixed threshold, not against the other endpoints."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from epp.api import Candidates, Parameters, Request, Scores

DEFAULT_THRESHOLD = 128


class LoadAwareParameters(Parameters):
    """Parameters of `load-aware-scorer`."""

    threshold: int = Field(
        default=DEFAULT_THRESHOLD,
        description="Waiting requests from which an endpoint scores 0; values below 1 mean the default.",
    )


class LoadAwareScorer:
    """0.5 for an empty queue, falling to 0 at `threshold` waiting requests."""

    def __init__(self, parameters: LoadAwareParameters) -> None:
        """Take the threshold."""
        self._threshold = float(parameters.threshold if parameters.threshold > 0 else DEFAULT_THRESHOLD)

    def score(self, request: Request, pool: Candidates) -> Scores:
        """Rate by requests waiting at the model server; NaN where never scraped."""
        return 0.5 * (1.0 - np.minimum(pool.waiting, self._threshold) / self._threshold)
