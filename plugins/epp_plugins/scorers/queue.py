"""Prefers endpoints with fewer waiting requests, relative to the others."""

from __future__ import annotations

import numpy as np

from epp.api import Candidates, Request, Scores


class QueueScorer:
    """The shortest queue scores 1, the longest 0; all score 1 when the queues are equally long."""

    def score(self, request: Request, pool: Candidates) -> Scores:
        """Rate by requests waiting at the model server; NaN where never scraped."""
        waiting = pool.waiting
        longest: float = np.fmax.reduce(waiting)  # fmax and fmin pass over NaN
        shortest: float = np.fmin.reduce(waiting)
        if longest > shortest:
            return (longest - waiting) / (longest - shortest)
        return np.where(np.isnan(waiting), np.nan, 1.0)
