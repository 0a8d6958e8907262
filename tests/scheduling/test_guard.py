"""Durations and failures of plugins, as they are reported."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from structlog.testing import capture_logs

from epp.config.assembly import Installed
from epp.scheduling.guard import Guard, NonsenseError, contained, ends_task, place

SECRET = "the prompt"  # noqa: S105 - nothing to guess
PLUGIN = Installed("mine", "mine-type", None)


class Odd(BaseException):
    """An error that is none of Python's."""


def fail(error: Exception) -> Exception:
    """Raise `error` once, so that it has a traceback."""
    try:
        raise error
    except type(error) as raised:
        return raised


def test_a_verb_is_measured_also_when_it_raises(bench: Any) -> None:
    """The time between two looks at the clock is reported once for each call, and the answer or error comes through."""
    bench.timer.step = 0.5
    guard = Guard(bench.telemetry, bench.timer)
    verb = guard.measured("Scorer", PLUGIN, lambda value: 1 // value)
    assert verb(1) == 1
    with pytest.raises(ZeroDivisionError):
        verb(0)
    assert bench.telemetry.ran == [("Scorer", "mine-type", "mine", 0.5)] * 2


@pytest.mark.parametrize("error", [SystemExit(0), KeyboardInterrupt(), asyncio.CancelledError(), GeneratorExit(), Odd()])
def test_what_would_end_the_picker_is_the_plugins_failure(bench: Any, error: BaseException) -> None:
    """`SystemExit` and its like come through as an ordinary error that names them and the plugin's line, measured as ever."""

    def verb() -> None:
        raise error

    bench.timer.step = 0.5
    guard = Guard(bench.telemetry, bench.timer)
    for wrapped in (guard.measured("Scorer", PLUGIN, verb), contained(verb)):
        with pytest.raises(NonsenseError, match=f"^raised {type(error).__qualname__}$") as caught:
            wrapped()
        assert place(caught.value) == f"{__file__}:{verb.__code__.co_firstlineno + 1}"
    assert bench.telemetry.ran == [("Scorer", "mine-type", "mine", 0.5)]


def test_an_ordinary_error_is_left_as_it_is() -> None:
    """So that a `Rejection` stays one."""
    error = ValueError()

    def verb() -> None:
        raise error

    with pytest.raises(ValueError, match=r"^$") as caught:
        contained(verb)()
    assert caught.value is error
    assert contained(lambda value: value + 1)(1) == 2


async def test_only_a_cancellation_of_ours_ends_a_task() -> None:
    """A `CancelledError` that a plugin made up is no reason to stop; one that was asked for is."""
    seen: list[bool] = []

    async def work() -> None:
        seen.append(ends_task(asyncio.CancelledError()))
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as error:
            seen.append(ends_task(error))
            raise

    task = asyncio.ensure_future(work())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert seen == [False, True]
    assert ends_task(GeneratorExit())
    assert not ends_task(SystemExit())


def test_each_failure_is_counted_and_one_a_minute_is_logged(bench: Any) -> None:
    """A plugin that fails with every request does not flood the log; what was held back is told later."""
    guard = Guard(bench.telemetry, bench.timer)
    with capture_logs() as logs:
        for bench.timer.now in (0.0, 1.0, 59.0, 61.0):
            guard.failed("Scorer", PLUGIN, fail(ValueError("x")))
    assert bench.telemetry.failed == [("Scorer", "mine-type", "mine")] * 4
    assert [line["unlogged"] for line in logs] == [0, 2]


def test_verbs_and_plugins_are_logged_apart(bench: Any) -> None:
    """One failing plugin does not silence another, nor another verb of its own."""
    guard = Guard(bench.telemetry, bench.timer)
    with capture_logs() as logs:
        guard.failed("Scorer", PLUGIN, fail(ValueError()))
        guard.failed("Filter", PLUGIN, fail(ValueError()))
        guard.failed("Scorer", Installed("other", "mine-type", None), fail(ValueError()))
    assert len(logs) == 3


def test_the_log_names_the_place_and_not_the_text(bench: Any) -> None:
    """An error's text may quote the prompt, so the log has the kind of error and the line of code instead."""
    guard = Guard(bench.telemetry, bench.timer)
    with capture_logs() as logs:
        guard.failed("Scorer", PLUGIN, fail(KeyError(SECRET)))
    assert logs[0]["error"] == "KeyError"
    assert "test_guard.py:" in logs[0]["place"]
    assert SECRET not in str(logs)


def test_our_own_complaint_is_logged_as_it_is(bench: Any) -> None:
    """What was wrong with an answer is told, because that text is ours."""
    guard = Guard(bench.telemetry, bench.timer)
    with capture_logs() as logs:
        guard.failed("Scorer", PLUGIN, NonsenseError("gave scores of shape (2,) for 3 candidates"))
    assert logs[0]["error"] == "gave scores of shape (2,) for 3 candidates"
