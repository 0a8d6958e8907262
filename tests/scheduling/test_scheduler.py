"""The scheduler: which profiles run, whose choice counts, and what the client gets when nobody can serve."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from epp.api import NoEndpoints, Request, Saturated


def keys(schedule: Any) -> list[str]:
    """Name the endpoints of the primary pick."""
    return [endpoint.key for endpoint in schedule.primary.endpoints]


def test_the_primary_profile_chooses(bench: Any, request_: Request) -> None:
    """The pick of the profile that the handler names is the answer; the others are kept beside it."""
    scheduler = bench.scheduler(bench.profile(picker=[0]), bench.profile(picker=[1], name="other"), handler=None)
    schedule = scheduler.schedule(request_, bench.pool().candidates())
    assert keys(schedule) == ["10.0.0.1:80"]
    assert {name: pick.endpoints[0].key for name, pick in schedule.picks.items()} == {
        "default": "10.0.0.1:80",
        "other": "10.0.0.2:80",
    }


def test_no_candidates_is_503(bench: Any, request_: Request) -> None:
    """Without candidates there is no scheduling, and the client learns that nobody is there."""
    with pytest.raises(NoEndpoints) as caught:
        bench.scheduler(bench.profile()).schedule(request_, bench.pool(0).candidates())
    assert (caught.value.status, caught.value.reason) == (503, "rejected-no-endpoints")


def test_filters_that_leave_nobody_are_429(bench: Any, request_: Request) -> None:
    """Endpoints exist but none may serve: the client may try again."""
    scheduler = bench.scheduler(bench.profile([bench.use("f", np.zeros(4, dtype=bool))]))
    with pytest.raises(Saturated) as caught:
        scheduler.schedule(request_, bench.pool().candidates())
    assert (caught.value.status, caught.value.reason) == (429, "rejected-saturated")


def test_a_failed_profile_that_is_not_primary_does_not_matter(bench: Any, request_: Request) -> None:
    """A side profile without survivors is kept as None."""
    side = bench.profile([bench.use("f", np.zeros(4, dtype=bool))], name="side")
    schedule = bench.scheduler(bench.profile(picker=[2]), side).schedule(request_, bench.pool().candidates())
    assert keys(schedule) == ["10.0.0.3:80"]
    assert schedule.picks["side"] is None


def test_a_failed_primary_profile_is_429_though_others_found_somebody(bench: Any, request_: Request, plan: Any) -> None:
    """The handler's word counts: when its primary profile found nobody, no other one steps in."""
    side = bench.profile([bench.use("f", np.zeros(4, dtype=bool))], name="side")
    with pytest.raises(Saturated):
        bench.scheduler(bench.profile(), side, handler=plan(chosen="side")).schedule(request_, bench.pool().candidates())


def test_rounds_go_on_until_the_handler_has_enough(bench: Any, request_: Request, plan: Any) -> None:
    """The handler sees what earlier rounds found and may stop before all profiles ran."""
    seen: list[list[str]] = []

    def rounds(request: Request, available: Any, done: Any) -> list[str]:
        seen.append(list(done))
        return ["default"] if not done else ["b"] if len(done) == 1 else []

    profiles = [bench.profile(name=name) for name in ("default", "b", "c")]
    schedule = bench.scheduler(*profiles, handler=plan(rounds)).schedule(request_, bench.pool().candidates())
    assert seen == [[], ["default"], ["default", "b"]]
    assert list(schedule.picks) == ["default", "b"]


def test_a_handler_that_repeats_itself_comes_to_an_end(bench: Any, request_: Request, plan: Any) -> None:
    """No profile runs twice, so naming the same ones for ever ends the scheduling."""
    profile = bench.profile()
    scheduler = bench.scheduler(profile, bench.profile(name="b"), handler=plan(lambda *_: ["default", "default"]))
    schedule = scheduler.schedule(request_, bench.pool().candidates())
    assert list(schedule.picks) == ["default"]
    assert len(profile.picker.plugin.asked) == 1
    assert not bench.telemetry.failed


@pytest.mark.parametrize("wrong", [ValueError(), lambda *_: ["stranger"], lambda *_: 5, lambda *_: "default"])
def test_a_handler_that_cannot_say_what_runs_makes_all_run(bench: Any, request_: Request, plan: Any, wrong: Any) -> None:
    """Raising, naming a profile that does not exist, or giving no list: all profiles run, and it is counted once."""
    scheduler = bench.scheduler(bench.profile(name="a"), bench.profile(picker=[3]), handler=plan(wrong))
    schedule = scheduler.schedule(request_, bench.pool().candidates())
    assert list(schedule.picks) == ["a", "default"]
    assert keys(schedule) == ["10.0.0.4:80"]
    assert bench.telemetry.failed == [("ProfilePicker", "handler-type", "handler")]


@pytest.mark.parametrize("wrong", [ValueError(), "stranger", "c", None, []])
def test_a_handler_that_cannot_say_who_serves_gets_the_first(bench: Any, request_: Request, plan: Any, wrong: Any) -> None:
    """The first profile in configured order that found somebody serves, and it is counted."""
    nobody = bench.profile([bench.use("f", np.zeros(4, dtype=bool))], name="a")
    profiles = [nobody, bench.profile(picker=[1], name="b"), bench.profile(name="c")]
    handler = plan(lambda _request, _available, done: [] if done else ["b", "a"], wrong)
    schedule = bench.scheduler(*profiles, handler=handler).schedule(request_, bench.pool().candidates())
    assert keys(schedule) == ["10.0.0.2:80"]
    assert bench.telemetry.failed == [("ProcessProfilesResults", "handler-type", "handler")]


def test_a_handler_that_runs_nothing_is_429(bench: Any, request_: Request, plan: Any) -> None:
    """Nobody was asked, so nobody can serve; nothing crashes."""
    with pytest.raises(Saturated):
        bench.scheduler(bench.profile(), handler=plan(lambda *_: [])).schedule(request_, bench.pool().candidates())


def test_a_scorer_that_divides_by_zero_is_no_noise(bench: Any, request_: Request) -> None:
    """Numpy's warnings do not leak: NaN and infinity are dealt with as scores."""
    zero = np.zeros(4)
    scorer = bench.use("s", lambda *_: np.array([0.0, 1.0, -1.0, 0.0]) / zero)
    schedule = bench.scheduler(bench.profile(scorers=[scorer])).schedule(request_, bench.pool().candidates())
    assert schedule.primary.totals.tolist() == [0.5, 1.0, 0.0, 0.5]


def test_the_handler_is_measured(bench: Any, request_: Request) -> None:
    """Both questions to the handler are reported under the reference's names."""
    bench.scheduler(bench.profile()).schedule(request_, bench.pool().candidates())
    points = [point for point, *_ in bench.telemetry.ran]
    assert points == ["ProfilePicker", "Picker", "ProcessProfilesResults"]
