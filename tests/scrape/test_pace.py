"""How often endpoints are asked: the rule, its bounds, its budget."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.scrape.pace import Pace, next_delay

PACE = Pace(interval=0.05, max_interval=1.0, max_rate=500)


def test_a_busy_endpoint_is_asked_every_interval() -> None:
    """However long the last delay was, a busy endpoint comes back to the shortest one at once."""
    assert next_delay(1.0, busy=True, floor=0.05, pace=PACE) == 0.05


def test_an_idle_endpoint_is_asked_half_as_often_each_time() -> None:
    """Delays double from the interval up to the longest."""
    delays, delay = [], 0.0
    for _ in range(7):
        delay = next_delay(delay, busy=False, floor=0.05, pace=PACE)
        delays.append(delay)
    assert delays == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("busy", "quiet", "expected"),
    [(0, 0, 0.05), (8, 0, 0.05), (25, 0, 0.05), (50, 0, 0.1), (256, 0, 0.512), (8, 248, 0.05), (1000, 0, 1.0), (50, 1000, 0.4)],
)
def test_many_busy_endpoints_share_the_budget(busy: int, quiet: int, expected: float) -> None:
    """The interval stretches with the busy endpoints, the quiet ones hardly matter, and a second is the end of it."""
    assert PACE.floor(busy, quiet) == pytest.approx(expected)


def test_an_interval_above_the_longest_is_kept() -> None:
    """Who asks for a scrape every five seconds gets that, busy or not."""
    pace = Pace(interval=5.0)
    assert pace.floor(1, 0) == 5.0
    assert next_delay(5.0, busy=False, floor=5.0, pace=pace) == 5.0


@given(st.integers(0, 500), st.integers(0, 500), st.floats(0, 10), st.booleans())
def test_delays_stay_in_bounds_and_within_the_budget(busy: int, quiet: int, last: float, is_busy: bool) -> None:
    """Every delay lies between interval and the longest; up to 500 endpoints all scrapes fit into the budget, nearly."""
    floor = PACE.floor(busy, quiet)
    delay = next_delay(last, busy=is_busy, floor=floor, pace=PACE)
    assert PACE.interval <= delay <= PACE.max_interval
    if busy + quiet <= PACE.max_rate * PACE.max_interval * 3 / 4:
        assert busy / floor + quiet / PACE.max_interval <= PACE.max_rate * 1.0001
