"""What the tests of scheduling share: a pool, plugins that answer as told, and a telemetry that remembers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest

from epp.api import Candidates, EndpointSpec, Pool, Request
from epp.config.assembly import Installed, ProfileSpec, Use
from epp.scheduling.scheduler import Scheduler
from epp.telemetry import Telemetry


class Remembering(Telemetry):
    """Keeps what was reported."""

    def __init__(self) -> None:
        """Start with nothing reported."""
        self.failed: list[tuple[str, str, str]] = []
        self.ran: list[tuple[str, str, str, float]] = []

    def plugin_failed(self, point: str, kind: str, name: str) -> None:
        """Keep a failure."""
        self.failed.append((point, kind, name))

    def plugin_ran(self, point: str, kind: str, name: str, seconds: float) -> None:
        """Keep a duration."""
        self.ran.append((point, kind, name, seconds))


@dataclass
class Ticking:
    """A clock that moves when told, and by `step` with each look."""

    now: float = 0.0
    step: float = 0.0

    def __call__(self) -> float:
        """Move by a step and tell the time."""
        self.now += self.step
        return self.now


@dataclass
class Answering:
    """A plugin whose every verb gives `answer`: a value, an exception to raise, or a function of what the verb was given."""

    answer: Any
    asked: list[tuple[Any, ...]] = field(default_factory=list)

    def _give(self, *arguments: Any) -> Any:
        self.asked.append(arguments)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer(*arguments) if callable(self.answer) else self.answer

    filter = score = pick = profiles = primary = _give


@dataclass
class Plan:
    """A profile handler that answers as told."""

    rounds: Any = None
    chosen: Any = "default"

    def profiles(self, request: Request, available: Sequence[str], done: Any) -> Any:
        """Answer as told; all of them when nothing was told."""
        if isinstance(self.rounds, Exception):
            raise self.rounds
        return available if self.rounds is None else self.rounds(request, available, done)

    def primary(self, request: Request, done: Any) -> Any:
        """Answer as told."""
        if isinstance(self.chosen, Exception):
            raise self.chosen
        return self.chosen


@dataclass
class Bench:
    """Builds schedulers over one pool of `a`, `b`, `c`, … and keeps what they report."""

    telemetry: Remembering = field(default_factory=Remembering)
    timer: Ticking = field(default_factory=Ticking)
    random: Random = field(default_factory=lambda: Random(7))

    def pool(self, count: int = 4) -> Pool:
        """Make a pool of `count` endpoints `10.0.0.1:80` and so on."""
        pool = Pool(lambda: 0.0)
        pool.update(EndpointSpec(f"10.0.0.{number}", 80) for number in range(1, count + 1))
        return pool

    def use(self, name: str, answer: Any, *, weight: float = 1.0, on_error: str = "skip") -> Use:
        """Put a plugin that gives `answer` into a profile."""
        return Use(Installed(name, f"{name}-type", Answering(answer)), weight, on_error)

    def profile(
        self, filters: Sequence[Use] = (), scorers: Sequence[Use] = (), picker: Any = None, name: str = "default"
    ) -> ProfileSpec:
        """Make a profile; without `picker` the highest total is picked."""
        answering = Answering(best if picker is None else picker)
        return ProfileSpec(name, tuple(filters), tuple(scorers), Installed("picker", "picker-type", answering))

    def scheduler(self, *profiles: ProfileSpec, handler: Any = None) -> Scheduler:
        """Make a scheduler; without `handler` all profiles run and `default` is the primary one."""
        installed = Installed("handler", "handler-type", handler or Plan())
        return Scheduler(profiles, installed, telemetry=self.telemetry, random=self.random, timer=self.timer)


def best(request: Request, pool: Candidates, totals: Any) -> list[int]:
    """Pick the highest total."""
    return [int(totals.argmax())]


@pytest.fixture
def bench() -> Bench:
    """Give a fresh bench."""
    return Bench()


@pytest.fixture
def plan() -> Callable[..., Plan]:
    """Give the maker of handlers."""
    return Plan


@pytest.fixture
def request_() -> Request:
    """Give a request like any other."""
    return Request("1", "POST", "/v1/completions", {})
