"""One scheduling profile: filters narrow the candidates, scorers rate them, the picker chooses.

Decides what a score is worth and what follows when a plugin fails: a scorer is passed over, a filter is passed over or
leaves nobody (as configured), a picker is replaced by the least in flight. Whatever they do, only survivors of the filters
are picked. Knows no plugin by name and reads no endpoint state of its own.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import numpy as np

from epp.api import Candidates, Mask, Pick, Request, Scores
from epp.scheduling.fallback import least_inflight_position
from epp.scheduling.guard import Guard, NonsenseError

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

    from epp.config.assembly import Installed, ProfileSpec

REJECT = "reject"  # the other value of `Use.on_error` is `skip`


class Profile:
    """A profile made ready to run: each verb wrapped, in order."""

    def __init__(self, spec: ProfileSpec, guard: Guard, random: random.Random) -> None:
        """Take the plugins from `spec`; `random` breaks ties when the picker fails."""
        self.name = spec.name
        self._guard = guard
        self._random = random
        self._filters = [
            (use.installed, guard.measured("Filter", use.installed, use.installed.plugin.filter), use.on_error == REJECT)
            for use in spec.filters
        ]
        self._scorers = [
            (use.installed, guard.measured("Scorer", use.installed, use.installed.plugin.score), use.weight)
            for use in spec.scorers
        ]
        self._picker: tuple[Installed, Callable[..., Any]] = (
            spec.picker,
            guard.measured("Picker", spec.picker, spec.picker.plugin.pick),
        )

    def run(self, request: Request, candidates: Candidates) -> Pick | None:
        """Choose among `candidates`; None when the filters leave nobody."""
        survivors = self._filter(request, candidates)
        if not len(survivors):
            return None
        totals, parts = self._score(request, survivors)
        endpoints = survivors.endpoints
        positions = self._choose(request, survivors, totals)
        return Pick(self.name, [endpoints[position] for position in positions], endpoints, totals, parts)

    def _filter(self, request: Request, candidates: Candidates) -> Candidates:
        for installed, verb, rejects in self._filters:
            if not len(candidates):
                break
            try:
                mask = checked_mask(verb(request, candidates), len(candidates))
            except Exception as error:  # noqa: BLE001 - a plugin may raise anything
                self._guard.failed("Filter", installed, error)
                if rejects:
                    return candidates.keep(np.zeros(len(candidates), dtype=np.bool_))
                continue
            if not mask.all():
                candidates = candidates.keep(mask)
        return candidates

    def _score(self, request: Request, survivors: Candidates) -> tuple[Scores, list[tuple[str, float, Scores]]]:
        count = len(survivors)
        totals = np.zeros(count)
        parts: list[tuple[str, float, Scores]] = []
        for installed, verb, weight in self._scorers:
            try:
                scores = cleaned(verb(request, survivors), count)
            except Exception as error:  # noqa: BLE001 - a plugin may raise anything
                self._guard.failed("Scorer", installed, error)
                continue
            parts.append((installed.name, weight, scores))
            totals += scores if weight == 1.0 else scores * weight
        return totals, parts

    def _choose(self, request: Request, survivors: Candidates, totals: Scores) -> Sequence[int]:
        installed, verb = self._picker
        try:
            return checked_positions(verb(request, survivors, totals), len(survivors))
        except Exception as error:  # noqa: BLE001 - a plugin may raise anything
            self._guard.failed("Picker", installed, error)
            return (least_inflight_position(survivors, self._random),)


def cleaned(given: object, count: int) -> Scores:
    """Make `given` a score in [0, 1] for each of `count` candidates, or raise.

    What lies outside is clamped. NaN means that the scorer does not know the candidate. Such a one gets the mean of the
    known candidates' scores, but never more than 0.5, and 0.5 when nobody is known: an endpoint of which nothing is known
    is not the idlest one, and not the worst either.
    """
    scores = np.asarray(given, dtype=np.float64)
    if scores.shape != (count,):
        message = f"gave scores of shape {scores.shape} for {count} candidates"
        raise NonsenseError(message)
    if np.minimum.reduce(scores) >= 0.0 and np.maximum.reduce(scores) <= 1.0:  # both false when there is a NaN
        return scores
    unknown = np.isnan(scores)
    scores = scores.clip(0.0, 1.0)
    if unknown.any():
        known = scores[~unknown]
        scores[unknown] = min(0.5, float(known.mean())) if len(known) else 0.5
    return scores


def checked_mask(given: object, count: int) -> Mask:
    """Make sure that `given` is a truth value for each of `count` candidates."""
    mask = np.asarray(given)
    if mask.dtype != np.bool_ or mask.shape != (count,):
        message = f"gave a mask of {mask.dtype} and shape {mask.shape} for {count} candidates"
        raise NonsenseError(message)
    return mask


def checked_positions(given: Any, count: int) -> list[int]:
    """Make sure that `given` names at least one of `count` candidates, and none twice."""
    if isinstance(given, np.ndarray):
        if given.dtype.kind not in "iu" or given.ndim != 1:
            message = f"gave positions of {given.dtype} and shape {given.shape}"
            raise NonsenseError(message)
        given = given.tolist()
    positions = [operator.index(position) for position in given]
    if not positions or min(positions) < 0 or max(positions) >= count or len(set(positions)) != len(positions):
        message = f"gave no positions, positions outside of {count} candidates, or one twice"
        raise NonsenseError(message)
    return positions
