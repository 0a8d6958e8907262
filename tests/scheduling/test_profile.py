"""A profile: what is picked, what scores are worth, and what a failing plugin changes."""

from __future__ import annotations

import math
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.api import Request
from epp.config.assembly import Installed, ProfileSpec, Use
from epp.endpoints.endpoint import EndpointSpec
from epp.endpoints.pool import Pool
from epp.scheduling.guard import Guard, NonsenseError
from epp.scheduling.profile import Profile, checked_positions, cleaned
from epp.telemetry import Telemetry

NAN = math.nan


def run(bench: Any, spec: ProfileSpec, pool: Pool) -> Any:
    """Run the profile once over the whole pool."""
    profile = Profile(spec, Guard(bench.telemetry, bench.timer), bench.random)
    return profile.run(Request("1", "POST", "/", {}), pool.candidates())


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        ([0.0, 0.25, 1.0], [0.0, 0.25, 1.0]),
        ([-1.0, 2.0, 0.5], [0.0, 1.0, 0.5]),
        ([math.inf, -math.inf, 0.5], [1.0, 0.0, 0.5]),
        ([NAN, 0.25, 0.25], [0.25, 0.25, 0.25]),
        ([NAN, 1.0, 1.0], [0.5, 1.0, 1.0]),
        ([NAN, 0.0, 0.0], [0.0, 0.0, 0.0]),
        ([NAN, NAN, NAN], [0.5, 0.5, 0.5]),
        ([NAN, 9.0, -9.0], [0.5, 1.0, 0.0]),
        ([True, False, True], [1.0, 0.0, 1.0]),
        ([1, 0, 0], [1.0, 0.0, 0.0]),
    ],
)
def test_scores_are_clamped_and_the_unknown_is_neutral(given_: list[float], expected: list[float]) -> None:
    """Scores end in [0, 1]; an unknown candidate gets the mean of the known ones, at most 0.5."""
    assert cleaned(given_, 3).tolist() == expected


def test_cleaning_leaves_the_plugins_array_alone() -> None:
    """A scorer may keep the array it gave; it is not changed under its hands."""
    scores = np.array([NAN, 7.0])
    cleaned(scores, 2)
    assert np.isnan(scores[0])
    assert scores[1] == 7.0


@pytest.mark.parametrize("given_", [None, 0.5, [0.5], [0.5] * 4, [[0.5] * 3], {"a": 1}, ["x", "y", "z"], [None] * 2])
def test_scores_of_the_wrong_kind_are_refused(given_: object) -> None:
    """Anything but one number a candidate is an error."""
    with pytest.raises((NonsenseError, TypeError, ValueError)):
        cleaned(given_, 3)


def test_totals_are_weighted_sums_and_parts_say_why(bench: Any) -> None:
    """The total is the sum of weight times score; the pick shows each scorer's part before weighting."""
    scorers = [bench.use("x", [1.0, 0.0, 0.5], weight=2.0), bench.use("y", [0.0, 1.0, NAN], weight=3.0)]
    pick = run(bench, bench.profile(scorers=scorers), bench.pool(3))
    assert pick.totals.tolist() == [2.0, 3.0, 2.5]
    assert [(name, weight, scores.tolist()) for name, weight, scores in pick.parts] == [
        ("x", 2.0, [1.0, 0.0, 0.5]),
        ("y", 3.0, [0.0, 1.0, 0.5]),
    ]
    assert [endpoint.key for endpoint in pick.candidates] == ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"]
    assert [endpoint.key for endpoint in pick.endpoints] == ["10.0.0.2:80"]


def test_filters_run_in_order_and_stop_when_nobody_is_left(bench: Any) -> None:
    """Each filter sees the survivors of those before it; after nobody survived no plugin is asked."""
    first, second = bench.use("1", np.array([True, False, True])), bench.use("2", np.array([False, False]))
    third, scorer = bench.use("3", np.array([], dtype=bool)), bench.use("s", [])
    assert run(bench, bench.profile([first, second, third], [scorer]), bench.pool(3)) is None
    assert [endpoint.key for endpoint in second.installed.plugin.asked[0][1].endpoints] == ["10.0.0.1:80", "10.0.0.3:80"]
    assert not third.installed.plugin.asked
    assert not scorer.installed.plugin.asked


@pytest.mark.parametrize("wrong", [ValueError(), None, [True], [1, 0, 1], np.ones(3), np.ones((3, 1), dtype=bool)])
@pytest.mark.parametrize("on_error", ["skip", "reject"])
def test_a_failing_filter_is_passed_over_or_leaves_nobody(bench: Any, wrong: object, on_error: str) -> None:
    """What a filter's failure means is configured: as if it were not there, or as if it kept nobody."""
    pick = run(bench, bench.profile([bench.use("f", wrong, on_error=on_error)]), bench.pool(3))
    assert (pick is None) == (on_error == "reject")
    assert bench.telemetry.failed == [("Filter", "f-type", "f")]


@pytest.mark.parametrize("wrong", [ValueError(), None, [0.5], "abc"])
def test_a_failing_scorer_is_passed_over(bench: Any, wrong: object) -> None:
    """The other scorers decide, and the pick does not claim the failed one took part."""
    scorers = [bench.use("bad", wrong), bench.use("good", [0.0, 1.0, 0.0])]
    pick = run(bench, bench.profile(scorers=scorers), bench.pool(3))
    assert pick.totals.tolist() == [0.0, 1.0, 0.0]
    assert [part[0] for part in pick.parts] == ["good"]
    assert bench.telemetry.failed == [("Scorer", "bad-type", "bad")]


@pytest.mark.parametrize(
    "wrong", [ValueError(), lambda *_: None, [3], [-1], [0, 0], [0.0], np.array([0.0]), np.array([True, False, True]), ["0"]]
)
def test_a_failing_picker_is_replaced_by_the_least_in_flight(bench: Any, wrong: object) -> None:
    """No answer, positions out of range, doubled or of the wrong kind: the least loaded survivor is taken."""
    pool = bench.pool(4)
    for endpoint in (pool.endpoints[0], pool.endpoints[1]):
        pool.reserve(endpoint)
    keep = bench.use("f", np.array([True, True, True, False]))  # the idle fourth is out
    pick = run(bench, bench.profile([keep], picker=wrong), pool)
    assert [endpoint.key for endpoint in pick.endpoints] == ["10.0.0.3:80"]
    assert bench.telemetry.failed == [("Picker", "picker-type", "picker")]


def test_a_picker_that_names_nobody_is_replaced() -> None:
    """An empty answer is no answer."""
    empties: list[Any] = [[], (), np.array([], dtype=np.intp)]
    for empty in empties:
        with pytest.raises(NonsenseError):
            checked_positions(empty, 3)


def test_the_order_of_the_picker_is_kept(bench: Any) -> None:
    """The choice comes first, fallbacks follow as the picker named them."""
    pick = run(bench, bench.profile(picker=np.array([2, 0])), bench.pool(3))
    assert [endpoint.key for endpoint in pick.endpoints] == ["10.0.0.3:80", "10.0.0.1:80"]


def test_each_verb_is_reported(bench: Any) -> None:
    """Filters, scorers and the picker report their time under the reference's names for the points."""
    spec = bench.profile([bench.use("f", np.array([True]))], [bench.use("s", [1.0])])
    run(bench, spec, bench.pool(1))
    assert [report[:3] for report in bench.telemetry.ran] == [
        ("Filter", "f-type", "f"),
        ("Scorer", "s-type", "s"),
        ("Picker", "picker-type", "picker"),
    ]


class Odd:
    """A plugin whose verbs give whatever hypothesis thought of."""

    def __init__(self, answer: object) -> None:
        """Take the answer."""
        self.answer = answer

    def give(self, *_: object) -> object:
        """Give the answer."""
        return self.answer

    filter = score = pick = give


floats = st.floats(allow_nan=True, allow_infinity=True)
masks = st.lists(st.booleans(), min_size=5, max_size=5).map(lambda bits: np.array(bits, dtype=np.bool_))
anything = st.none() | st.integers() | floats | st.lists(floats, max_size=6) | st.lists(st.integers(-2, 6), max_size=6)


@given(mask=masks | anything, scores=anything, picked=anything, on_error=st.sampled_from(["skip", "reject"]))
def test_only_survivors_are_picked(mask: object, scores: object, picked: object, on_error: str) -> None:
    """Whatever plugins give, the picked endpoints are survivors of the filters, and somebody is picked if anybody is left."""
    pool = Pool(lambda: 0.0)
    pool.update(EndpointSpec(f"10.0.0.{number}", 80) for number in range(5))
    installed = [Installed(name, name, Odd(answer)) for name, answer in (("f", mask), ("s", scores), ("p", picked))]
    spec = ProfileSpec("x", (Use(installed[0], on_error=on_error),), (Use(installed[1]),), installed[2])
    profile = Profile(spec, Guard(Telemetry(), lambda: 0.0), Random(1))
    pick = profile.run(Request("1", "POST", "/", {}), pool.candidates())
    valid = isinstance(mask, np.ndarray)
    survivors = [endpoint for endpoint in pool.endpoints if not isinstance(mask, np.ndarray) or mask[endpoint.row]]
    if not valid and on_error == "reject":
        survivors = []
    assert (pick is None) == (not survivors)
    if pick is not None:
        assert pick.endpoints
        assert set(pick.endpoints) <= set(survivors)
        assert pick.totals is not None
        assert np.isfinite(pick.totals).all()
