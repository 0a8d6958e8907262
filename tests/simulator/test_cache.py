from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.simulator.cache import BlockCache


def filled(cache: BlockCache, *contents: int) -> list[int]:
    """Take one block for each of `contents` and fill it."""
    blocks = cache.take((), len(contents))
    assert blocks is not None
    for block, content in zip(blocks, contents, strict=True):
        cache.fill(block, content)
    return blocks


def test_a_released_prefix_is_found_again() -> None:
    """Content stays after its last reference is gone."""
    cache = BlockCache(4)
    blocks = filled(cache, 1, 2, 3)
    cache.release(blocks)
    assert cache.used == 0
    assert cache.lookup([1, 2, 3, 4]) == blocks


def test_lookup_stops_at_the_first_gap() -> None:
    """A block is of use only together with all before it."""
    cache = BlockCache(4)
    blocks = filled(cache, 1, 3)
    assert cache.lookup([1, 2, 3]) == blocks[:1]


def test_the_tail_of_a_sequence_is_evicted_before_its_head() -> None:
    """Blocks are freed tail first, so the most shared part of a prefix lasts longest."""
    cache = BlockCache(3)
    cache.release(filled(cache, 1, 2, 3))
    filled(cache, 9)
    assert len(cache.lookup([1, 2, 3])) == 2
    filled(cache, 8)
    assert len(cache.lookup([1, 2, 3])) == 1


def test_the_least_recently_released_sequence_is_evicted_first() -> None:
    """Eviction follows the order of release, and a hit makes a block recent again."""
    cache = BlockCache(3)
    first, second, third = (filled(cache, content) for content in (1, 2, 3))
    for blocks in (first, second, third):
        cache.release(blocks)
    again = cache.take(cache.lookup([1]), 0)
    assert again == first
    cache.release(again)
    filled(cache, 9)
    assert cache.lookup([2]) == []
    assert cache.lookup([1]) == first
    assert cache.lookup([3]) == third


def test_blocks_without_reusable_content_are_evicted_first() -> None:
    """A half-filled block is worth nothing to anybody, so it goes before an older prefix."""
    cache = BlockCache(2)
    prefix = filled(cache, 1)
    cache.release(prefix)
    partial = cache.take((), 1)
    assert partial is not None
    cache.release(partial)
    assert cache.take((), 1) == partial
    assert cache.lookup([1]) == prefix


def test_taking_too_much_changes_nothing() -> None:
    """Hits that nobody references count as free blocks only once."""
    cache = BlockCache(3)
    blocks = filled(cache, 1, 2)
    cache.release(blocks)
    assert cache.take(blocks, 2) is None
    assert (cache.used, cache.available) == (0, 3)
    assert cache.take(blocks, 1) is not None
    assert (cache.used, cache.available) == (3, 0)


def test_shared_blocks_are_freed_with_their_last_reference() -> None:
    """Two sequences with one prefix hold its blocks once."""
    cache = BlockCache(4)
    blocks = filled(cache, 1, 2)
    assert cache.take(blocks, 0) == blocks
    assert cache.usage == 0.5
    cache.release(blocks)
    assert cache.used == 2
    cache.release(blocks)
    assert cache.used == 0


def test_a_cache_without_blocks_is_refused() -> None:
    """The error names the parameter."""
    with pytest.raises(ValueError, match="num_blocks is 0"):
        BlockCache(0)


@given(
    st.integers(1, 12),
    st.lists(st.tuples(st.booleans(), st.lists(st.integers(0, 5), max_size=5), st.integers(0, 4)), max_size=60),
)
def test_blocks_are_neither_lost_nor_invented(num_blocks: int, actions: list[tuple[bool, list[int], int]]) -> None:
    """Whatever is taken and released, used plus available is the capacity, and in the end nothing is used."""
    cache = BlockCache(num_blocks)
    held: list[list[int]] = []
    for take, contents, fresh in actions:
        if take or not held:
            hits = cache.lookup(list(dict.fromkeys(contents)))
            blocks = cache.take(hits, fresh)
            if blocks is not None:
                assert len(set(blocks)) == len(blocks)
                for block, content in zip(blocks[len(hits) :], contents, strict=False):
                    cache.fill(block, content)
                held.append(blocks)
        else:
            cache.release(held.pop(fresh % len(held)))
        assert cache.used == len({block for blocks in held for block in blocks}) <= num_blocks
        assert cache.used + cache.available == num_blocks
    for blocks in held:
        cache.release(blocks)
    assert (cache.used, cache.available) == (0, num_blocks)
