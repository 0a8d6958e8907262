"""The choice without plugins."""

from __future__ import annotations

from random import Random
from typing import Any

from epp.scheduling.fallback import least_inflight


def test_the_least_loaded_is_chosen(bench: Any) -> None:
    """The endpoint with the fewest leases is chosen, whatever else is known."""
    pool = bench.pool(3)
    for endpoint in pool.endpoints[:2]:
        pool.reserve(endpoint)
    assert least_inflight(pool.candidates(), Random(1)) is pool.endpoints[2]


def test_ties_are_spread(bench: Any) -> None:
    """Equally loaded endpoints are all chosen in time, and no busier one is."""
    pool, random = bench.pool(4), Random(1)
    pool.reserve(pool.endpoints[0])
    chosen = {least_inflight(pool.candidates(), random).key for _ in range(100)}
    assert chosen == {endpoint.key for endpoint in pool.endpoints[1:]}


def test_only_candidates_are_chosen(bench: Any) -> None:
    """An idle endpoint that is no candidate is not chosen."""
    pool = bench.pool(2)
    pool.reserve(pool.endpoints[0])
    assert least_inflight(pool.candidates([("10.0.0.1", None)]), Random(1)) is pool.endpoints[0]
