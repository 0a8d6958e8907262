"""The pool: membership, signals, candidates, and leases that are never wrong."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.endpoints.endpoint import EndpointSpec, join_address, split_address
from epp.endpoints.lease import Lease
from epp.endpoints.pool import Pool, Signals


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        """Start at 100 s."""
        self.now = 100.0

    def __call__(self) -> float:
        """Tell the time."""
        return self.now


def spec(n: int, **labels: str) -> EndpointSpec:
    """Name endpoint n."""
    return EndpointSpec(f"10.0.0.{n}", 8000, name=f"e{n}", labels=labels)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("members"), st.sets(st.integers(0, 4))),
            st.tuples(st.just("reserve"), st.integers(0, 4), st.floats(0, 1e6)),
            st.tuples(st.just("first"), st.integers(0, 30)),
            st.tuples(st.just("end"), st.integers(0, 30)),
        ),
        max_size=40,
    )
)
def test_leases_stay_true_through_flaps(steps: list[tuple[str, object, float] | tuple[str, object]]) -> None:
    """Whatever joins, leaves and comes back, each endpoint counts exactly its live leases, and zero at the end."""
    pool = Pool(Clock())
    leases: list[Lease] = []
    for verb, *values in steps:
        match verb, values:
            case "members", [members]:
                assert isinstance(members, set)
                pool.update(spec(n) for n in sorted(members))
            case "reserve", [n, tokens]:
                endpoint = pool.get(spec(int(str(n))).key)
                if endpoint is not None:
                    leases.append(pool.reserve(endpoint, float(str(tokens))))
            case _, [n] if leases:
                lease = leases[int(str(n)) % len(leases)]
                lease.first_token() if verb == "first" else lease.end()
        for endpoint in pool.endpoints:
            live = [lease for lease in leases if lease.live and lease.endpoint.key == endpoint.key]
            assert pool.columns["inflight_requests"][endpoint.row] == len(live) == endpoint.leases
            assert pool.columns["inflight_tokens"][endpoint.row] == pytest.approx(sum(lease.tokens for lease in live), abs=1e-6)
    for lease in leases:
        lease.end()
        lease.end()
    assert not pool.columns["inflight_requests"].any()
    assert not pool.columns["inflight_tokens"].any()


def test_unknown_is_nan_until_the_first_scrape_and_rows_keep_their_numbers() -> None:
    """A new endpoint is unknown, not idle; signals follow their endpoint when rows move."""
    clock = Clock()
    pool = Pool(clock)
    assert not pool.synced
    pool.update([spec(1), spec(2)])
    assert pool.synced
    candidates = pool.candidates()
    assert np.isnan(candidates.waiting).all()
    assert np.isnan(candidates.age).all()
    assert (candidates.inflight_requests == 0).all()
    pool.record(pool.endpoints[1], Signals(waiting=3, kv_usage=0.5, custom={"power": 7.0}))
    clock.now += 2
    pool.update([spec(2), spec(3)])
    assert pool.candidates().waiting.tolist() == [3.0, pytest.approx(np.nan, nan_ok=True)]
    assert pool.candidates().age[0] == 2.0
    assert pool.candidates().attribute("power")[0] == 7.0
    pool.record(pool.endpoints[0], Signals(running=1))
    assert pool.candidates().waiting[0] == 3.0, "a partial scrape keeps what it did not find"


def test_signals_that_are_too_old_count_as_unknown_but_are_kept() -> None:
    """A server that stopped telling is unknown after a while, not forever as it last was; own counts stay known."""
    clock = Clock()
    pool = Pool(clock, stale_after=2.0)
    pool.update([spec(1), spec(2)])
    pool.record(pool.endpoints[0], Signals(waiting=0, kv_usage=0.1, custom={"power": 1.0}))
    clock.now += 1.9
    pool.record(pool.endpoints[1], Signals(waiting=5, kv_usage=0.2))
    assert pool.candidates().waiting.tolist() == [0.0, 5.0]
    clock.now += 0.2
    old = pool.candidates()
    assert np.isnan(old.waiting).tolist() == [True, False]
    assert np.isnan(old.keep(np.array([True, False])).attribute("power")).all()
    assert old.inflight_requests.tolist() == [0.0, 0.0]
    assert old.age.tolist() == pytest.approx([2.1, 0.2])
    assert pool.columns["waiting"][0] == 0.0


def test_the_subset_compares_ports_and_unreachable_endpoints_are_left_out_while_others_are_up() -> None:
    """Ports matter when given; a pool that is wholly unreachable is used all the same."""
    pool = Pool(Clock())
    pool.update([spec(1), EndpointSpec("10.0.0.1", 8001), spec(2), EndpointSpec("fd00::1", 8000)])
    assert [e.key for e in pool.candidates([("10.0.0.1", 8001)]).endpoints] == ["10.0.0.1:8001"]
    assert [e.key for e in pool.candidates([("10.0.0.1", None)]).endpoints] == ["10.0.0.1:8000", "10.0.0.1:8001"]
    assert [e.key for e in pool.candidates([("fd00::1", 8000)]).endpoints] == ["[fd00::1]:8000"]
    assert len(pool.candidates([])) == 0
    version = pool.version
    pool.reachable(pool.endpoints[0], reached=False)
    pool.reachable(pool.endpoints[0], reached=False)
    assert pool.version == version + 1
    assert len(pool.candidates()) == 3
    assert len(pool.candidates([("10.0.0.1", 8000)])) == 1, "nobody else may serve this subset"
    for endpoint in pool.endpoints:
        pool.reachable(endpoint, reached=False)
    assert len(pool.candidates()) == 4
    pool.record(pool.endpoints[2], Signals(waiting=0))
    assert [e.key for e in pool.candidates().endpoints] == ["10.0.0.2:8000"]


def test_adapters_and_labels_are_columns() -> None:
    """Adapters follow the scrapes and leave with their endpoint; labels follow discovery."""
    pool = Pool(Clock())
    pool.update([spec(1, tier="gold"), spec(2)])
    first, second = pool.endpoints
    pool.record(first, Signals(adapters=frozenset({"a"}), waiting_adapters=frozenset({"b"}), lora_max=2))
    pool.record(second, Signals(adapters=frozenset({"a"}), waiting_adapters=frozenset()))
    assert pool.with_adapter("a").tolist() == [True, True]
    assert pool.with_adapter("b", waiting=True).tolist() == [True, False]
    pool.record(second, Signals(adapters=frozenset(), waiting_adapters=frozenset()))
    assert pool.with_adapter("a").tolist() == [True, False]
    assert pool.label("tier").tolist() == ["gold", None]
    pool.update([spec(2, tier="iron")])
    assert pool.label("tier").tolist() == ["iron"]
    assert pool.with_adapter("a").tolist() == [False]


def test_watchers_hear_of_changes_only() -> None:
    """The same membership again is no change; the first one is, even when empty."""
    pool = Pool(Clock())
    heard: list[int] = []
    pool.watch(lambda: heard.append(pool.version))
    pool.update([])
    pool.update([])
    pool.update([spec(1), spec(1)])
    pool.update([spec(1)])
    assert heard == [1, 2]
    assert len(pool) == 1


def test_ttft_is_a_moving_average() -> None:
    """The first answer sets it, later ones move it."""
    pool = Pool(Clock())
    pool.update([spec(1)])
    pool.observe_ttft(pool.endpoints[0], 1.0)
    pool.observe_ttft(pool.endpoints[0], 2.0)
    assert pool.candidates().ttft[0] == pytest.approx(1.2)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.0.0.1:80", ("10.0.0.1", 80)), ("10.0.0.1", ("10.0.0.1", None)), ("[::1]:80", ("::1", 80)), ("::1", ("::1", None)),
        ("[0:0::1]", ("::1", None)), (" 10.0.0.1:80 ", ("10.0.0.1", 80)),
    ],
)  # fmt: skip
def test_addresses_are_split_and_joined(text: str, expected: tuple[str, int | None]) -> None:
    """IPv4, IPv6 in brackets and bare, canonical."""
    assert split_address(text) == expected
    if expected[1]:
        assert split_address(join_address(expected[0], expected[1])) == expected


@pytest.mark.parametrize("text", ["", "host:80", "10.0.0.1:0", "10.0.0.1:99999", "10.0.0.1:x", "[::1]x:1", "10.0.0.1:²"])
def test_what_is_no_address_is_refused(text: str) -> None:
    """A bad address raises ValueError."""
    with pytest.raises(ValueError, match=r".*"):
        split_address(text)


@pytest.mark.parametrize(
    ("address", "port"), [("host", 80), ("10.0.0.1", 0), ("10.0.0.1", "8000"), ("10.0.0.1", 70_000), ("", 1)]
)
def test_an_endpoint_that_envoy_could_not_use_is_refused(address: str, port: int) -> None:
    """A discovery plugin hears of its mistake; EDS stays whole."""
    with pytest.raises(ValueError, match=r".+"):
        EndpointSpec(address, port)


def test_an_address_is_kept_in_canonical_form() -> None:
    """One endpoint has one name however it is written."""
    assert EndpointSpec("0:0:0::1", 80).key == "[::1]:80"
