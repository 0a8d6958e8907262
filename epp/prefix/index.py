"""Which endpoint is believed to hold which prefix: for a prompt's block hashes, how many lead blocks each endpoint has.

Decides what is remembered, and what is forgotten when memory is full. The belief comes from where prompts were sent, not
from the model servers, so it is a guess. Knows no requests; an endpoint is anything with a key and a row.

Each endpoint has a slot, a bit in the set of holders of a block. Endpoints hold whole prefixes only, so along a chain the
sets can only shrink: a match looks for the few places where they do and skips what lies between.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from epp.prefix.shelf import Shelf

Floats: TypeAlias = npt.NDArray[np.float64]

DEFAULT_CAPACITY = 31_250
DEFAULT_TOTAL = 2_000_000
SHED = 1_024  # blocks given up at least when the total is exceeded, so that the search for whose is rare

FEW = 4  # holders that are cheaper found one by one than by looking through all slots

_BITS = tuple(tuple(bit for bit in range(8) if byte >> bit & 1) for byte in range(256))


class Holder(Protocol):
    """What the index needs of an endpoint."""

    @property
    def key(self) -> str:
        """What identifies it."""
        ...

    @property
    def row(self) -> int:
        """Its place in arrays over the pool; negative when it has left."""
        ...


class _Nobody:
    """The owner of a free slot."""

    key = ""
    row = -1


_NOBODY = _Nobody()


class _Slot:
    """One endpoint's place in the index."""

    __slots__ = ("bit", "capacity", "number", "shelf")

    def __init__(self, number: int, capacity: int) -> None:
        self.number = number
        self.bit = 1 << number
        self.capacity = capacity
        self.shelf = Shelf()


class PrefixIndex:
    """Remembers, for each endpoint, up to `capacity` blocks of the prompts it was given; `total` over all endpoints."""

    def __init__(self, *, capacity: int = DEFAULT_CAPACITY, total: int = DEFAULT_TOTAL) -> None:
        """Start empty. `capacity` holds for endpoints that have none of their own."""
        self.capacity = max(1, capacity)
        self.total = max(1, total)
        self.pairs = 0  # (block, endpoint) pairs held
        self._holders: dict[int, int] = {}  # block → set of slots, as bits
        self._owners: list[Holder] = []  # by slot number
        self._slots: dict[str, _Slot] = {}  # by the owner's key

    def __len__(self) -> int:
        """Count the blocks that anybody holds."""
        return len(self._holders)

    def size(self, key: str) -> int:
        """Count the blocks that endpoint `key` holds."""
        slot = self._slots.get(key)
        return slot.shelf.size if slot is not None else 0

    def match(self, hashes: Sequence[int], size: int) -> Floats:
        """Count for each row of a pool of `size` endpoints how many of the first `hashes` its endpoint holds without a gap."""
        matched = np.zeros(size)
        if not hashes:
            return matched
        get = self._holders.get
        held, last, end, at = get(hashes[0], 0), get(hashes[-1], 0), len(hashes), 0
        while held:
            if held == last:  # nobody drops out any more
                self._write(matched, held, end)
                break
            at += 1
            left = get(hashes[at], 0)
            if left == held:
                at = self._drop(hashes, held, at)
                left = get(hashes[at], 0)
            self._write(matched, held & ~left, at)
            held = left
        return matched

    def _drop(self, hashes: Sequence[int], held: int, known: int) -> int:
        """Find the first block after `known` that not all of `held` hold; the last block is one such."""
        get = self._holders.get
        bound, step = len(hashes) - 1, 1
        while known + step < bound:
            if get(hashes[known + step], 0) != held:
                bound = known + step
                break
            known += step
            step += step
        while bound - known > 1:
            middle = (known + bound) // 2
            if get(hashes[middle], 0) == held:
                known = middle
            else:
                bound = middle
        return bound

    def add(self, endpoint: Holder, hashes: Sequence[int], *, capacity: int | None = None) -> None:
        """Note that `endpoint` now holds the chain `hashes`, as its most recent.

        `capacity` is how many blocks it can hold, as far as is known now; it may differ from what was said before.
        """
        slot = self._slots.get(endpoint.key)
        if slot is None:
            if not hashes:
                return
            slot = self._arrive(endpoint.key)
        self._owners[slot.number] = endpoint
        slot.capacity = self.capacity if capacity is None else max(1, capacity)
        room = min(slot.capacity, self.total)
        fresh = slot.shelf.add(hashes if len(hashes) <= room else hashes[:room])
        self._join(slot, fresh)
        if slot.shelf.size > slot.capacity:
            self._evict(slot, slot.shelf.size - slot.capacity)
        while self.pairs > self.total:
            largest = max(self._slots.values(), key=lambda one: one.shelf.size)
            self._evict(largest, max(self.pairs - self.total, min(SHED, largest.shelf.size // 2)))

    def remove(self, endpoint: Holder) -> None:
        """Forget all that `endpoint` held."""
        slot = self._slots.pop(endpoint.key, None)
        if slot is not None:
            self._evict(slot, slot.shelf.size)
            self._owners[slot.number] = _NOBODY

    def _arrive(self, key: str) -> _Slot:
        number = next((number for number, owner in enumerate(self._owners) if owner is _NOBODY), len(self._owners))
        if number == len(self._owners):
            self._owners.append(_NOBODY)
        slot = self._slots[key] = _Slot(number, self.capacity)
        return slot

    def _join(self, slot: _Slot, fresh: Sequence[int]) -> None:
        holders, bit = self._holders, slot.bit
        get = holders.get
        others = joined = 0  # neighbours mostly have the same holders: one object for them all
        for block in fresh:
            before = get(block, 0)
            if before is not others:
                others, joined = before, before | bit
            holders[block] = joined if before else bit
        self.pairs += len(fresh)

    def _evict(self, slot: _Slot, count: int) -> None:
        holders, bit = self._holders, slot.bit
        gone = slot.shelf.evict(count)
        others = left = 0
        for block in gone:
            before = holders[block]
            if before is not others:
                others, left = before, before & ~bit
            if left:
                holders[block] = left
            else:
                del holders[block]
        self.pairs -= len(gone)

    def _write(self, matched: Floats, held: int, count: int) -> None:
        """Set `count` for every endpoint in the set `held`."""
        owners, size = self._owners, len(matched)
        if held.bit_count() <= FEW:
            while held:
                low = held & -held
                row = owners[low.bit_length() - 1].row
                if 0 <= row < size:
                    matched[row] = count
                held ^= low
            return
        base = 0
        for byte in held.to_bytes((held.bit_length() + 7) // 8, "little"):
            for bit in _BITS[byte]:
                row = owners[base + bit].row
                if 0 <= row < size:
                    matched[row] = count
            base += 8
