from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from epp_plugins.scorers.running_requests import RunningRequestsSizeScorer


@pytest.mark.parametrize(
    ("running", "expected"),
    [
        ([0, 5, 10], [1.0, 0.5, 0.0]),
        ([3, 3], [1.0, 1.0]),
        ([math.nan, 2, 4], [math.nan, 1.0, 0.0]),
        ([math.nan, 2], [math.nan, 1.0]),
    ],
)
def test_the_fewer_run_the_better(pool: Any, ask: Any, running: list[float], expected: list[float]) -> None:
    """Running requests are rated between the fewest and the most known; the unknown stays unknown."""
    scores = RunningRequestsSizeScorer().score(ask(), pool(running=running).candidates())
    assert np.array_equal(scores, expected, equal_nan=True)
