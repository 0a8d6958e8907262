from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from epp_plugins.pickers.random import RandomPicker, RandomPickerParameters

from epp.api import Services


def test_all_are_equally_likely_whatever_they_score(pool: Any, ask: Any, services: Services) -> None:
    """Scores do not matter."""
    plugin, candidates, totals = RandomPicker(RandomPickerParameters(), services), pool(3).candidates(), np.array([0.0, 1.0, 9.0])
    seen = Counter(plugin.pick(ask(), candidates, totals).item() for _ in range(3000))
    assert all(850 < seen[position] < 1150 for position in range(3))


def test_fallbacks_are_drawn_without_replacement(pool: Any, ask: Any, services: Services) -> None:
    """Several endpoints are different ones, and no more than there are; a number below one means one."""
    candidates = pool(3).candidates()
    for count, expected in ((2, 2), (5, 3), (0, 1)):
        plugin = RandomPicker(RandomPickerParameters(max_num_of_endpoints=count), services)
        picked = plugin.pick(ask(), candidates, np.zeros(3)).tolist()
        assert len(picked) == len(set(picked)) == expected
        assert set(picked) <= {0, 1, 2}
