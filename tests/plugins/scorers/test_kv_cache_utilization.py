from __future__ import annotations

import math
from typing import Any

import numpy as np
from epp_plugins.scorers.kv_cache_utilization import KvCacheUtilizationScorer


def test_the_score_is_the_free_share(pool: Any, ask: Any) -> None:
    """The score is one minus the usage; the unknown stays unknown."""
    scores = KvCacheUtilizationScorer().score(ask(), pool(kv_usage=[0.0, 0.75, 1.0, math.nan]).candidates())
    assert np.array_equal(scores, [1.0, 0.25, 0.0, math.nan], equal_nan=True)
