"""Label values that come from outside: made harmless, and kept few. Decides what a metric may be told apart by.

Model names and fairness ids are written by clients. Each new one would be a series for ever, so after a number of them
all further ones share the value `other`. Once a value has been let in it stays, so that what goes up also comes down.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

OTHER = "other"
MOST = 1000  # distinct values of a label that clients write
LONGEST = 128  # characters

Cell = TypeVar("Cell")
Labels = tuple[str, ...]


def clean(value: str, longest: int = LONGEST) -> str:
    """Make `value` printable, valid UTF-8 and short."""
    value = value[:longest]
    if value.isascii() and value.isprintable():
        return value
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in value)


class Limit:
    """Lets in the first `most` distinct values; all others become `other`. Pinned values are let in besides."""

    def __init__(self, most: int = MOST) -> None:
        """Let nothing in yet."""
        self._most = most
        self._seen: set[str] = set()
        self._pinned: set[str] = set()

    def pin(self, value: str) -> None:
        """Let in `value`, which the operator wrote, whatever clients write."""
        self._pinned.add(clean(value))

    def bound(self, value: str) -> str:
        """Give the value that stands for `value`."""
        value = clean(value)
        if not value or value in self._seen or value in self._pinned:
            return value
        if len(self._seen) >= self._most:
            return OTHER
        self._seen.add(value)
        return value


class Cells(Generic[Cell]):
    """Cells by label values, made at first sight; at most `most` of them, then all further values share one."""

    def __init__(self, make: Callable[[], Cell], *, most: int = 10_000, name: Callable[[Labels], Labels] | None = None) -> None:
        """Make cells with `make`; `name` turns what is reported into the label values, by default as it is, cleaned."""
        self.cells: dict[Labels, Cell] = {}
        self._known: dict[Labels, Cell] = {}  # by what was reported: the shortcut of the hot path
        self._make = make
        self._most = most
        self._name = name or _cleaned

    def at(self, reported: Labels) -> Cell:
        """Give the cell of `reported`."""
        cell = self._known.get(reported)
        return cell if cell is not None else self._find(reported)

    def forget_names(self) -> None:
        """What was reported may mean something else now: ask for its label values anew. The cells stay."""
        self._known.clear()

    def _find(self, reported: Labels) -> Cell:
        labels = self._name(reported)
        cell = self.cells.get(labels)
        if cell is None:
            if len(self.cells) >= self._most:
                labels = (OTHER,) * len(labels)
            cell = self.cells.get(labels)
        if cell is None:
            cell = self.cells[labels] = self._make()
        if len(self._known) < self._most:
            self._known[reported] = cell
        return cell


def _cleaned(labels: Labels) -> Labels:
    return tuple(clean(value) for value in labels)
