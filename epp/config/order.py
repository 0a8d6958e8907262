"""Which producer runs before which, from the data they state: `produces`, `needs`, and `uses` (if anybody produces it)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from epp.api import Data
from epp.config.problems import Problems

if TYPE_CHECKING:
    from epp.config.assemble import Part


def unmet(parts: Iterable[Part]) -> list[tuple[Part, type[Data]]]:
    """List who needs data that nobody produces."""
    parts = list(parts)
    produced = {data for part in parts for data in part.described.produces}
    return [(part, data) for part in parts for data in part.described.needs if data not in produced]


def ordered(producers: Sequence[Part], problems: Problems) -> list[Part]:
    """Put `producers` in an order in which each finds what it needs, else keeping theirs; a cycle is noted by its names."""
    before = {
        part.installed.name: {
            other.installed.name
            for data in (*part.described.needs, *part.described.uses)
            for other in producers
            if data in other.described.produces and other is not part
        }
        for part in producers
    }
    done: list[Part] = []
    left = list(producers)
    while left:
        placed = {part.installed.name for part in done}
        ready = next((part for part in left if before[part.installed.name] <= placed), None)
        if ready is None:
            names = _cycle(before, {part.installed.name for part in left})
            path = next(part.path for part in left if part.installed.name == names[0])
            problems.error(path, f"producers need each other in a circle: {' needs '.join(map(repr, names))}")
            return done
        left.remove(ready)
        done.append(ready)
    return done


def _cycle(before: dict[str, set[str]], left: set[str]) -> list[str]:
    """Walk from any producer that is left, always to one it waits for, until one comes again."""
    walked = [min(left)]
    while True:
        following = min(before[walked[-1]] & left)
        if following in walked:
            return [*walked[walked.index(following) :], following]
        walked.append(following)
