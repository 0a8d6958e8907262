"""Prefers endpoints with fewer running requests, relative to the others."""

from __future__ import annotations

import numpy as np

from epp.api import Candidates, Request, Scores


class RunningRequestsSizeScorer:
    """The endpoint with the fewest running requests scores 1, with the most 0; all score 1 when all run equally many."""

    def score(self, request: Request, pool: Candidates) -> Scores:
        """Rate by requests running at the model server; NaN where never scraped."""
        running = pool.running
        most: float = np.fmax.reduce(running)  # fmax and fmin pass over NaN
        fewest: float = np.fmin.reduce(running)
        if most > fewest:
            return (most - running) / (most - fewest)
        return np.where(np.isnan(running), np.nan, 1.0)
