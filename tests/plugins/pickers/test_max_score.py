from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from epp_plugins.pickers.max_score import MaxScorePicker, MaxScorePickerParameters
from hypothesis import given
from hypothesis import strategies as st

from epp.api import Services


def picker(services: Services, count: int = 1) -> MaxScorePicker:
    """Make a picker that names `count` endpoints."""
    return MaxScorePicker(MaxScorePickerParameters(max_num_of_endpoints=count), services)


@pytest.mark.parametrize("count", [-3, 0, 1])
def test_the_best_is_picked(pool: Any, ask: Any, services: Services, count: int) -> None:
    """One endpoint, the one with the highest total; a number below one means one."""
    picked = picker(services, count).pick(ask(), pool(3).candidates(), np.array([0.1, 0.9, 0.5]))
    assert picked.tolist() == [1]


def test_fallbacks_follow_in_order(pool: Any, ask: Any, services: Services) -> None:
    """Several endpoints come best first, and no more than there are."""
    totals, candidates = np.array([0.1, 0.9, 0.5]), pool(3).candidates()
    assert picker(services, 2).pick(ask(), candidates, totals).tolist() == [1, 2]
    assert picker(services, 9).pick(ask(), candidates, totals).tolist() == [1, 2, 0]


@pytest.mark.parametrize("count", [1, 2])
def test_ties_are_spread_evenly(pool: Any, ask: Any, services: Services, count: int) -> None:
    """Equally good endpoints are picked equally often, at every place."""
    totals, candidates, plugin = np.array([1.0, 1.0, 0.0, 1.0]), pool(4).candidates(), picker(services, count)
    picks = [plugin.pick(ask(), candidates, totals).tolist() for _ in range(3000)]
    for place in range(count):
        seen = Counter(pick[place] for pick in picks)
        assert set(seen) == {0, 1, 3}
        assert all(850 < times < 1150 for times in seen.values())


@given(totals=st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0]), min_size=1, max_size=9), count=st.integers(1, 10))
def test_nobody_better_is_left_out(totals: list[float], count: int) -> None:
    """The picked have the highest totals there are, in falling order, each once."""
    from pathlib import Path
    from random import Random

    plugin = picker(Services("mine", lambda: 0.0, Random(1), Path()), count)
    picked = plugin.pick(None, None, np.array(totals)).tolist()  # type: ignore[arg-type]  # neither is looked at
    assert [totals[position] for position in picked] == sorted(totals, reverse=True)[:count]
    assert len(set(picked)) == len(picked)
