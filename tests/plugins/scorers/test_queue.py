from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from epp_plugins.scorers.queue import QueueScorer


@pytest.mark.parametrize(
    ("waiting", "expected"),
    [
        ([0, 5, 10], [1.0, 0.5, 0.0]),
        ([3, 3, 3], [1.0, 1.0, 1.0]),
        ([7], [1.0]),
        ([math.nan, 0, 10], [math.nan, 1.0, 0.0]),
        ([math.nan, 4], [math.nan, 1.0]),
        ([math.nan, math.nan], [math.nan, math.nan]),
    ],
)
def test_the_shorter_the_queue_the_better(pool: Any, ask: Any, waiting: list[float], expected: list[float]) -> None:
    """Queues are rated between the shortest and the longest known one; the unknown stays unknown."""
    scores = QueueScorer().score(ask(), pool(waiting=waiting).candidates())
    assert np.array_equal(scores, expected, equal_nan=True)
