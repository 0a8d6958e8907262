"""The index against a naive model: a set of blocks for each endpoint."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from epp.prefix.index import PrefixIndex


@dataclass
class Server:
    """An endpoint, as far as the index cares."""

    key: str
    row: int


@dataclass
class Naive:
    """What each endpoint holds, block by block, least recently used first."""

    capacity: int
    held: dict[str, OrderedDict[int, None]] = field(default_factory=dict)

    def add(self, key: str, blocks: list[int], capacity: int | None) -> None:
        """Touch each block from the tail to the head and forget the oldest."""
        room = self.capacity if capacity is None else capacity
        if not blocks and key not in self.held:
            return
        own = self.held.setdefault(key, OrderedDict())
        for block in reversed(blocks[:room]):
            own[block] = None
            own.move_to_end(block)
        while len(own) > room:
            own.popitem(last=False)

    def match(self, key: str, blocks: list[int]) -> int:
        """Count the leading blocks held."""
        own = self.held.get(key, OrderedDict())
        return next((at for at, block in enumerate(blocks) if block not in own), len(blocks))


def chain(path: list[int]) -> list[int]:
    """Name each prefix of `path`, as chained hashes do."""
    name, names = 1, []
    for step in path:
        name = name * 4 + step + 1
        names.append(name)
    return names


paths = st.lists(st.integers(0, 1), max_size=9).map(chain)
numbers = st.integers(0, 11)
additions = st.tuples(numbers, paths, st.none() | st.integers(1, 12))
removals = st.tuples(numbers, st.none(), st.none())


@given(steps=st.lists(additions | removals, max_size=40), asked=st.lists(paths, min_size=1, max_size=4), seed=st.randoms())
def test_it_agrees_with_the_naive_model(
    steps: list[tuple[int, list[int] | None, int | None]], asked: list[list[int]], seed: object
) -> None:
    """Matches are exactly the leading blocks held, for every endpoint, in whatever row it now is; capacities hold."""
    servers = [Server(f"10.0.0.{number}:80", number) for number in range(12)]
    index, naive = PrefixIndex(capacity=10), Naive(10)
    for number, blocks, capacity in steps:
        server = servers[number]
        if blocks is None:
            index.remove(server)
            naive.held.pop(server.key, None)
        else:
            index.add(server, blocks, capacity=capacity)
            naive.add(server.key, blocks, capacity)
            assert index.size(server.key) <= (capacity or 10)
    rows = list(range(12))
    seed.shuffle(rows)  # type: ignore[attr-defined]  # a random.Random
    for server, row in zip(servers, rows, strict=True):
        server.row = row
    for blocks in asked:
        matched = index.match(blocks, 12)
        assert {server.key: matched[server.row] for server in servers} == {
            server.key: naive.match(server.key, blocks) for server in servers
        }
    assert index.pairs == sum(map(len, naive.held.values()))
    assert len(index) == len(set().union(*naive.held.values()))


@given(steps=st.lists(additions, max_size=60), total=st.integers(1, 30))
def test_the_total_is_never_exceeded(steps: list[tuple[int, list[int], int | None]], total: int) -> None:
    """However many endpoints there are, the pairs over all stay within the total, and the count of them is right."""
    servers = [Server(f"10.0.0.{number}:80", number) for number in range(12)]
    index = PrefixIndex(capacity=10, total=total)
    for number, blocks, capacity in steps:
        index.add(servers[number], blocks, capacity=capacity)
        assert index.pairs <= total
        assert index.pairs == sum(index.size(server.key) for server in servers)
        assert len(index) <= index.pairs


def test_a_long_chain_with_many_holders_is_matched() -> None:
    """Where holders drop out one after the other, each gets its own count."""
    index, blocks = PrefixIndex(), list(range(1000, 1300))
    servers = [Server(f"10.0.0.{number}:80", number) for number in range(300)]
    for server in servers:
        index.add(server, blocks[: server.row])
    assert index.match(blocks, 300).tolist() == list(range(300))


def test_an_endpoint_that_left_its_row_is_not_written() -> None:
    """Holders outside of the pool's rows are passed over instead of overwriting somebody else's count."""
    index, blocks = PrefixIndex(), [1, 2, 3]
    gone, grown, here = Server("a", -1), Server("b", 7), Server("c", 1)
    for server in (gone, grown, here):
        index.add(server, blocks)
    assert index.match(blocks, 2).tolist() == [0.0, 3.0]


def test_a_returning_endpoint_takes_its_place_as_a_new_object() -> None:
    """The key is the identity: the newest object's row counts."""
    index = PrefixIndex()
    index.add(Server("a", -1), [1, 2])
    index.add(Server("a", 0), [1])
    assert index.match([1, 2], 1).tolist() == [2.0]


def test_a_capacity_that_shrinks_is_followed() -> None:
    """The next addition trims the endpoint to what it is now said to hold, tails first."""
    index, server = PrefixIndex(), Server("a", 0)
    index.add(server, list(range(100)), capacity=100)
    index.add(server, [500], capacity=11)
    assert index.size("a") == 11
    assert index.match(list(range(100)), 1).tolist() == [10.0]


def test_freed_places_are_used_again() -> None:
    """Endpoints that come and go do not let the sets of holders grow."""
    index = PrefixIndex()
    for number in range(1000):
        server = Server(f"10.0.{number}:80", 0)
        index.add(server, [1, 2, 3])
        index.remove(server)
    assert len(index._owners) == 1
    assert index.pairs == len(index) == 0


def test_nothing_asked_and_nothing_known_match_nothing() -> None:
    """An empty prompt, an unknown prompt and an empty index give zeros of the pool's length."""
    index = PrefixIndex()
    index.add(Server("a", 0), [])
    assert index.match([], 3).tolist() == [0.0, 0.0, 0.0]
    assert index.match([1], 3).tolist() == [0.0, 0.0, 0.0]
    assert index.match([1], 3).dtype == np.float64
    index.remove(Server("never seen", 0))
