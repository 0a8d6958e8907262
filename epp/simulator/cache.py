"""The KV cache in blocks: which blocks are referenced, which keep a prefix for later, which is reused next.

Decides what is evicted: the least recently released block first, blocks without reusable content before all others.
Knows nothing of sequences, time or text; a block's content is named by a hash that includes all content before it.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class BlockCache:
    """A fixed number of blocks, reference-counted. A block without references keeps its content until it is needed."""

    def __init__(self, num_blocks: int) -> None:
        """Start with `num_blocks` empty blocks."""
        if num_blocks < 1:
            msg = f"num_blocks is {num_blocks}: a cache needs at least 1 block"
            raise ValueError(msg)
        self.num_blocks = num_blocks
        self._references: list[int] = []  # by block; grows up to num_blocks as blocks are first used
        self._hashes: list[int | None] = []  # by block; None while the content is not reusable
        self._by_hash: dict[int, int] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()  # blocks without references, next to be reused first

    @property
    def available(self) -> int:
        """How many blocks can be allocated now."""
        return self.num_blocks - len(self._references) + len(self._idle)

    @property
    def used(self) -> int:
        """How many blocks are referenced."""
        return len(self._references) - len(self._idle)

    @property
    def usage(self) -> float:
        """The referenced share of all blocks, 0 to 1."""
        return self.used / self.num_blocks

    def lookup(self, hashes: Iterable[int]) -> list[int]:
        """Find the longest run of leading `hashes` that is cached. Nothing is referenced by this."""
        found = []
        for value in hashes:
            block = self._by_hash.get(value)
            if block is None:
                break
            found.append(block)
        return found

    def take(self, hits: Sequence[int], fresh: int) -> list[int] | None:
        """Reference the blocks `hits` and `fresh` new ones; None, and nothing changes, when that many are not there."""
        idle_hits = sum(1 for block in hits if block in self._idle)
        if self.available - idle_hits < fresh:
            return None
        for block in hits:
            self._references[block] += 1
            self._idle.pop(block, None)
        return [*hits, *(self._next() for _ in range(fresh))]

    def _next(self) -> int:
        if len(self._references) < self.num_blocks:
            self._references.append(1)
            self._hashes.append(None)
            return len(self._references) - 1
        block, _ = self._idle.popitem(last=False)
        content = self._hashes[block]
        if content is not None:
            del self._by_hash[content]
            self._hashes[block] = None
        self._references[block] = 1
        return block

    def fill(self, block: int, content: int) -> None:
        """Note that `block` holds `content`. When another block already does, this one stays without reusable content."""
        if self._hashes[block] is None and content not in self._by_hash:
            self._hashes[block] = content
            self._by_hash[content] = block

    def release(self, blocks: Sequence[int]) -> None:
        """Drop one reference of each of a sequence's `blocks`, tail first: the tail is worth least to others."""
        for block in reversed(blocks):
            self._references[block] -= 1
            if self._references[block] == 0:
                self._idle[block] = None
                if self._hashes[block] is None:
                    self._idle.move_to_end(block, last=False)
