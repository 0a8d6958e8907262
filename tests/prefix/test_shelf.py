"""The shelf against a block-wise LRU that touches each chain from its tail to its head."""

from __future__ import annotations

from collections import OrderedDict

from hypothesis import given
from hypothesis import strategies as st

from epp.prefix.shelf import Shelf


def chain(path: list[int]) -> list[int]:
    """Name each prefix of `path`, as chained hashes do."""
    name, names = 1, []
    for step in path:
        name = name * 4 + step + 1
        names.append(name)
    return names


paths = st.lists(st.integers(0, 1), max_size=7).map(chain)
steps = st.lists(st.tuples(paths, st.integers(0, 4)), max_size=40)


@given(steps=steps)
def test_it_is_a_least_recently_used_order_of_blocks(steps: list[tuple[list[int], int]]) -> None:
    """After any additions and evictions the shelf holds and gives up exactly what the plain LRU does."""
    shelf, plain = Shelf(), OrderedDict[int, None]()
    for blocks, evicted in steps:
        fresh = [block for block in blocks if block not in plain]
        assert list(shelf.add(blocks)) == fresh
        for block in reversed(blocks):
            plain[block] = None
            plain.move_to_end(block)
        expected = [plain.popitem(last=False)[0] for _ in range(min(evicted, len(plain)))]
        assert shelf.evict(evicted) == expected
        assert set(shelf) == set(plain)
        assert shelf.size == len(plain)


@given(steps=steps)
def test_a_block_is_never_held_without_its_predecessor(steps: list[tuple[list[int], int]]) -> None:
    """Whatever is forgotten, what stays are whole prefixes."""
    shelf = Shelf()
    for blocks, evicted in steps:
        shelf.add(blocks)
        shelf.evict(evicted)
        held = set(shelf)
        assert all((block - 1) // 4 == 1 or (block - 1) // 4 in held for block in held)


def test_a_conversation_stays_one_run() -> None:
    """Turns that grow a chain, and a prompt that once stopped in its middle, do not leave it in pieces."""
    shelf = Shelf()
    turns = chain([0] * 30)
    for end in (5, 9, 30, 20, 30):
        shelf.add(turns[:end])
    assert len(shelf._order) == 1
    assert shelf.size == 30


def test_evicting_more_than_there_is_empties_it() -> None:
    """An eviction gives at most what is held."""
    shelf = Shelf()
    shelf.add(chain([0, 1]))
    shelf.add(chain([0, 0]))
    assert len(shelf.evict(100)) == 3
    assert shelf.size == 0
    assert shelf.evict(1) == []
