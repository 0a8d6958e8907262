"""Prefers endpoints with more free KV cache."""

from __future__ import annotations

from epp.api import Candidates, Request, Scores


class KvCacheUtilizationScorer:
    """The free share of the KV cache."""

    def score(self, request: Request, pool: Candidates) -> Scores:
        """Rate by `1 - usage`; NaN where never scraped."""
        return 1.0 - pool.kv_usage
