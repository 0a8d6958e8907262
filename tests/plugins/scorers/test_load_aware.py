from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from epp_plugins.scorers.load_aware import LoadAwareParameters, LoadAwareScorer


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, [0.5, 0.25, 0.0, 0.0, math.nan]),
        ({"threshold": 256}, [0.5, 0.375, 0.25, 0.0, math.nan]),
        ({"threshold": 0}, [0.5, 0.25, 0.0, 0.0, math.nan]),
    ],
)
def test_the_score_falls_to_the_threshold(pool: Any, ask: Any, given: dict[str, int], expected: list[float]) -> None:
    """0.5 for an empty queue, 0 from the threshold on; a threshold that is none means the default."""
    scorer = LoadAwareScorer(LoadAwareParameters.model_validate(given))
    scores = scorer.score(ask(), pool(waiting=[0, 64, 128, 1000, math.nan]).candidates())
    assert np.array_equal(scores, expected, equal_nan=True)
