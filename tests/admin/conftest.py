"""A pool on a clock that the test moves, and what is made of it."""

from __future__ import annotations

import numpy as np
import pytest

from epp.admin.metrics import PrometheusTelemetry
from epp.api import EndpointSpec, Pick, Pool, Request


class Time:
    """A clock that the test moves."""

    def __init__(self) -> None:
        """Start somewhere."""
        self.now = 1000.0

    def __call__(self) -> float:
        """Tell the time."""
        return self.now


@pytest.fixture
def time() -> Time:
    """Give the clock."""
    return Time()


@pytest.fixture
def pool(time: Time) -> Pool:
    """Give a pool of three endpoints, the last one IPv6 and without a name."""
    pool = Pool(time)
    pool.update([
        EndpointSpec("10.0.0.1", 8000, name="vllm-0", namespace="llm", labels={"zone": "a"}),
        EndpointSpec("10.0.0.2", 8000, name="vllm-1", namespace="llm"),
        EndpointSpec("::1", 8000),
    ])  # fmt: skip
    return pool


@pytest.fixture
def telemetry(pool: Pool) -> PrometheusTelemetry:
    """Give a telemetry that names endpoints as the pool does."""
    return PrometheusTelemetry(pool, commit="abc", build_ref="v1")


@pytest.fixture
def request_() -> Request:
    """Give a request with a prompt that must not be seen."""
    return Request("id-1", "POST", "/v1/completions", {}, body=b"the prompt", model="food", target_model="food-v1")


@pytest.fixture
def pick(pool: Pool) -> Pick:
    """Give a choice among the three endpoints."""
    parts = (("queue", 2.0, np.array([0.1, 0.5, 0.4])), ("kv", 1.0, np.array([0.0, 1.0, 0.5])))
    totals = np.array([0.2, 2.0, 1.3])
    return Pick("default", [pool.endpoints[1], pool.endpoints[2]], pool.endpoints, totals, parts)
