"""What one endpoint is believed to hold: block chains as a tree of runs, least recently used first, of bounded size.

Decides what is forgotten first. Knows one endpoint's blocks, not who else holds them.

A hash names its block and all blocks before it, so chains that share a prefix form a tree, and two runs that agree in
their last block agree in all. Keeping whole runs instead of single blocks makes a repeated prompt cost a few look-ups and
a block cost eight bytes. The order is exactly that of a block-wise LRU which touches each chain from its tail to its head:
a block is always younger than what follows it, so forgetting the oldest cuts tails and never leaves a hole in a prefix.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class _Run:
    """Consecutive blocks of a chain that share their recency. `children` counts the runs that continue it."""

    __slots__ = ("blocks", "children", "parent")

    def __init__(self, blocks: array[int], parent: _Run | None, children: int = 0) -> None:
        self.blocks = blocks
        self.parent = parent
        self.children = children


class Shelf:
    """The blocks of one endpoint."""

    __slots__ = ("_order", "_runs", "size")

    def __init__(self) -> None:
        """Start empty."""
        self.size = 0
        self._runs: dict[int, _Run] = {}  # by their first block
        self._order: OrderedDict[_Run, None] = OrderedDict()  # least recently used first

    def __iter__(self) -> Iterator[int]:
        """Give every block held."""
        for run in self._order:
            yield from run.blocks

    def add(self, chain: Sequence[int]) -> Sequence[int]:
        """Touch `chain`, from its tail to its head, and hold what was missing; give the blocks that are new."""
        path, known = self._walk(chain)
        fresh = chain[known:]
        if fresh:
            self._extend(path, fresh)
            self.size += len(fresh)
        for run in reversed(path):
            self._order.move_to_end(run)
        return fresh

    def evict(self, count: int) -> list[int]:
        """Forget the `count` least recently used blocks; give them."""
        gone: list[int] = []
        while len(gone) < count and self._order:
            run = next(iter(self._order))
            keep = len(run.blocks) - (count - len(gone))
            if keep > 0:
                gone.extend(reversed(run.blocks[keep:]))
                del run.blocks[keep:]
                break
            gone.extend(reversed(run.blocks))
            del self._order[run]
            del self._runs[run.blocks[0]]
            if run.parent is not None:
                run.parent.children -= 1
        self.size -= len(gone)
        return gone

    def _walk(self, chain: Sequence[int]) -> tuple[list[_Run], int]:
        """Follow `chain` through the runs; give those it covers wholly and how many blocks they have."""
        path: list[_Run] = []
        known, length = 0, len(chain)
        while known < length:
            run = self._runs.get(chain[known])
            if run is None:
                break
            blocks = run.blocks
            shared = min(len(blocks), length - known)
            if blocks[shared - 1] != chain[known + shared - 1]:
                shared = _shared(blocks, chain, known, shared - 1)
            if shared < len(blocks):
                run = self._split(run, shared)
            elif path and path[-1].children == 1:
                self._merge(path.pop(), run)
            path.append(run)
            known += shared
        return path, known

    def _extend(self, path: list[_Run], fresh: Sequence[int]) -> None:
        last = path[-1] if path else None
        if last is not None and not last.children:
            last.blocks.extend(array("Q", fresh))
            return
        run = _Run(array("Q", fresh), last)
        if last is not None:
            last.children += 1
        self._runs[fresh[0]] = run
        self._order[run] = None
        path.append(run)

    def _split(self, run: _Run, at: int) -> _Run:
        """Cut `run` before block `at` and give the front part; the rest keeps its place in the order."""
        front = _Run(run.blocks[:at], run.parent, 1)
        run.blocks = run.blocks[at:]
        run.parent = front
        self._runs[front.blocks[0]] = front
        self._runs[run.blocks[0]] = run
        self._order[front] = None
        return front

    def _merge(self, front: _Run, run: _Run) -> None:
        """Make `front` and its only child one run again: both were just touched."""
        del self._runs[run.blocks[0]]
        del self._order[front]
        run.blocks = front.blocks + run.blocks
        run.parent = front.parent
        self._runs[run.blocks[0]] = run


def _shared(blocks: array[int], chain: Sequence[int], start: int, bound: int) -> int:
    """Count how many of the first `bound` blocks are those of `chain` from `start` on; agreement never comes back."""
    return bisect_left(range(bound), True, key=lambda at: blocks[at] != chain[start + at])
