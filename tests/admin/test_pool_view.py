from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from epp.admin.pool import PoolGauges, endpoint_names, pool_state
from epp.api import EndpointSpec, Pool, Signals


def gauges(pool: Pool) -> dict[str, Any]:
    """Read the gauges: name → value, or values by the endpoint's label."""
    found: dict[str, Any] = {}
    for reading in PoolGauges(pool, "pool").read():
        if reading.family.labels == ("name",):
            found[reading.family.name] = reading.samples[0][1]
        else:
            column = 1 if reading.family.labels[0] == "name" else 0
            found[reading.family.name] = {labels[column]: value for labels, value in reading.samples}
    return found


def test_an_unknown_pool_reads_zero(pool: Pool) -> None:
    """Before the first scrape means are 0, not absent and not NaN; what belongs to an endpoint is absent."""
    found = gauges(pool)
    assert found["ready_endpoints"] == 3
    assert found["average_kv_cache_utilization"] == found["std_dev_queue_size"] == found["average_running_requests"] == 0
    assert found["per_endpoint_queue_size"] == found["scrape_age_seconds"] == {}
    assert set(found["inflight_requests"]) == {"vllm-0", "vllm-1", "[::1]:8000"}


def test_an_empty_pool_reads_zero(time: Any) -> None:
    """No endpoint at all gives zeros and no warning."""
    found = gauges(Pool(time))
    assert found["ready_endpoints"] == found["average_queue_size"] == found["std_dev_running_requests"] == 0


def test_means_ignore_the_unknown_and_the_unreachable(pool: Pool, time: Any) -> None:
    """Means and sample deviations are over what is known of endpoints that are routed to."""
    for endpoint, waiting, usage in zip(pool.endpoints, (2, 6, 100), (0.25, 0.75, 1.0), strict=True):
        pool.record(endpoint, Signals(waiting=waiting, kv_usage=usage))
    pool.columns["unreachable"][2] = 1.0
    time.now += 7
    found = gauges(pool)
    assert found["ready_endpoints"] == 2
    assert (found["average_queue_size"], found["average_kv_cache_utilization"]) == (4, 0.5)
    assert found["std_dev_queue_size"] == pytest.approx(np.sqrt(8))
    assert found["per_endpoint_queue_size"] == {"vllm-0": 2, "vllm-1": 6, "[::1]:8000": 100}
    assert found["scrape_age_seconds"]["vllm-0"] == pytest.approx(7)
    assert found["average_running_requests"] == 0


def test_load_is_what_the_leases_say(pool: Pool) -> None:
    """In-flight gauges follow reservations and come back to 0."""
    with pool.reserve(pool.endpoints[0], 512):
        assert gauges(pool)["inflight_requests"]["vllm-0"] == 1
        assert gauges(pool)["inflight_tokens"]["vllm-0"] == 512
    assert gauges(pool)["inflight_requests"]["vllm-0"] == gauges(pool)["inflight_tokens"]["vllm-0"] == 0


def test_names_are_never_given_twice(time: Any) -> None:
    """Endpoints of equal names, and one named as another's address, are called by their address."""
    pool = Pool(time)
    pool.update([
        EndpointSpec("10.0.0.1", 8000, name="same", namespace="a"),
        EndpointSpec("10.0.0.1", 8001, name="same", namespace="b"),
        EndpointSpec("10.0.0.2", 8000, name="10.0.0.1:8000"),
        EndpointSpec("10.0.0.3", 8000, name="own"),
    ])  # fmt: skip
    assert endpoint_names(pool) == ["10.0.0.1:8000", "10.0.0.1:8001", "10.0.0.2:8000", "own"]


def test_the_state_tells_everything_and_unknown_as_none(pool: Pool, time: Any) -> None:
    """The API's rows hold every column, labels, adapters, leases and age; None where nothing is known."""
    pool.record(pool.endpoints[0], Signals(waiting=2, adapters=frozenset({"b", "a"}), custom={"temperature": 40.0}))
    pool.reserve(pool.endpoints[0], 10)
    time.now += 3
    state = pool_state(pool)
    first, second, third = state["endpoints"]
    assert state["synced"] is True
    assert (first["endpoint"], first["name"], first["namespace"]) == ("10.0.0.1:8000", "vllm-0", "llm")
    assert (first["labels"], first["leases"], first["tokens"]) == ({"zone": "a"}, 1, 10.0)
    assert (first["scrape_age_seconds"], first["adapters"]) == (pytest.approx(3), ["a", "b"])
    assert (first["columns"]["waiting"], first["columns"]["temperature"]) == (2, 40)
    assert set(first["columns"]) == set(pool.columns) - {"scraped_at"}
    assert second["columns"]["waiting"] is second["scrape_age_seconds"] is None
    assert third["endpoint"] == "[::1]:8000"
