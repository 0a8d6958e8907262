from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from epp_plugins.pickers.weighted_random import WeightedRandomPicker, WeightedRandomPickerParameters

from epp.api import Services


def picks(pool: Any, ask: Any, services: Services, totals: list[float], count: int = 1) -> list[list[int]]:
    """Pick 3,000 times."""
    plugin = WeightedRandomPicker(WeightedRandomPickerParameters(max_num_of_endpoints=count), services)
    request, candidates = ask(), pool(len(totals)).candidates()
    return [plugin.pick(request, candidates, np.array(totals)).tolist() for _ in range(3000)]


@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_chances_are_in_proportion_to_scores(pool: Any, ask: Any, services: Services, scale: float) -> None:
    """Twice the score is picked twice as often, however small the scores are; no score is never picked."""
    seen = Counter(pick[0] for pick in picks(pool, ask, services, [scale, 2 * scale, 0.0, -scale]))
    assert set(seen) == {0, 1}
    assert 900 < seen[0] < 1100


def test_without_any_score_all_are_equally_likely(pool: Any, ask: Any, services: Services) -> None:
    """Zero and below for everybody: a uniform draw."""
    seen = Counter(pick[0] for pick in picks(pool, ask, services, [0.0, 0.0, -1.0]))
    assert all(850 < seen[position] < 1150 for position in range(3))


def test_fallbacks_put_the_worthless_last(pool: Any, ask: Any, services: Services) -> None:
    """Several endpoints are different ones; those without a score follow all that have one."""
    for picked in picks(pool, ask, services, [0.0, 1.0, 0.5], 3)[:100]:
        assert sorted(picked) == [0, 1, 2]
        assert picked[2] == 0


def test_a_number_below_one_means_one(pool: Any, ask: Any, services: Services) -> None:
    """As in the reference."""
    assert {len(picked) for picked in picks(pool, ask, services, [0.5, 0.5], 0)} == {1}
