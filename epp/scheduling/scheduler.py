"""The scheduler: asks the profile handler which profiles run, runs each at most once, and names the primary choice.

Decides when scheduling ends and what the client gets when nobody can serve. Knows no plugin by name; does no I/O, and time
and randomness are handed in.

A profile handler that fails is replaced by the plainest rule: when it cannot say what runs next, all profiles that have
not run yet do, in their configured order; when it cannot say which one serves the request, the first that found somebody.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from epp.api import Candidates, NoEndpoints, Pick, Request, Saturated
from epp.scheduling.guard import Guard, NonsenseError
from epp.scheduling.profile import Profile

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping, Sequence

    from epp.clock import Clock
    from epp.config.assembly import Installed, ProfileSpec
    from epp.telemetry import Telemetry

PROFILES, PRIMARY = "ProfilePicker", "ProcessProfilesResults"  # the reference's names for the handler's two questions


@dataclass(frozen=True, slots=True)
class Schedule:
    """What scheduling came to: the choice that serves the request, and every profile that ran (None: it found nobody)."""

    primary: Pick
    picks: Mapping[str, Pick | None]


class Scheduler:
    """Chooses endpoints for requests, by profiles."""

    def __init__(
        self,
        profiles: Sequence[ProfileSpec],
        handler: Installed,
        *,
        telemetry: Telemetry,
        random: random.Random,
        timer: Clock = time.perf_counter,
    ) -> None:
        """Take the `profiles` in their configured order and the `handler` that chooses between them."""
        self._guard = Guard(telemetry, timer)
        self._profiles = {spec.name: Profile(spec, self._guard, random) for spec in profiles}
        self._names = tuple(self._profiles)
        self._handler = handler
        self._ask_profiles = self._guard.measured(PROFILES, handler, handler.plugin.profiles)
        self._ask_primary = self._guard.measured(PRIMARY, handler, handler.plugin.primary)

    def schedule(self, request: Request, candidates: Candidates) -> Schedule:
        """Choose among `candidates`. Raises `NoEndpoints` when there are none, `Saturated` when the filters leave nobody."""
        if not len(candidates):
            message = "no ready endpoint for this request"
            raise NoEndpoints(message)
        done: dict[str, Pick | None] = {}
        with np.errstate(all="ignore"):  # a scorer that divides by zero gives NaN or infinity, and those are dealt with
            while names := self._next(request, done):
                for name in names:
                    done[name] = self._profiles[name].run(request, candidates)
            primary = self._primary(request, done)
        if primary is None:
            message = f"none of {len(candidates)} endpoints may take this request now"
            raise Saturated(message)
        return Schedule(primary, done)

    def _next(self, request: Request, done: Mapping[str, Pick | None]) -> list[str]:
        """Ask which profiles run next. No profile runs twice, so this ends whatever the handler answers."""
        left = [name for name in self._names if name not in done]
        if not left:
            return left
        try:
            wanted = self._ask_profiles(request, self._names, done)
            names = [name for name in dict.fromkeys(wanted) if name not in done]
            self._known(names)
        except Exception as error:  # noqa: BLE001 - a plugin may raise anything
            self._guard.failed(PROFILES, self._handler, error)
            return left
        else:
            return names

    def _primary(self, request: Request, done: Mapping[str, Pick | None]) -> Pick | None:
        try:
            name = self._ask_primary(request, done)
            self._known([name])
            return done[name]
        except Exception as error:  # noqa: BLE001 - a plugin may raise anything
            self._guard.failed(PRIMARY, self._handler, error)
        return next((pick for name in self._names if (pick := done.get(name)) is not None), None)

    def _known(self, names: Sequence[str]) -> None:
        strangers = [name for name in names if name not in self._profiles]
        if strangers:
            message = f"named a profile that is not configured: {str(strangers[0])[:64]!r}"
            raise NonsenseError(message)
