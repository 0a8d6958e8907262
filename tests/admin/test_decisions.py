from __future__ import annotations

import json
import sys

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from epp.admin.decisions import DecisionLog, described
from epp.api import Endpoint, EndpointSpec, Pick, Pool, Request


def test_a_decision_is_put_into_words(pool: Pool, pick: Pick, request_: Request) -> None:
    """Everything that led to the choice is told: candidates by total, each scorer's weight and score."""
    log = DecisionLog()
    log.record(request_, pick, pool.endpoints[1], 100.0)
    told = described(log.recent()[0], 103.0)
    assert told == {
        "request_id": "id-1",
        "model": "food",
        "target_model": "food-v1",
        "age_seconds": 3.0,
        "endpoint": "10.0.0.2:8000",
        "by": "scheduler",
        "profile": "default",
        "endpoints": ["10.0.0.2:8000", "[::1]:8000"],
        "candidates": [
            {"endpoint": "10.0.0.2:8000", "chosen": True, "total": 2.0, "scores": {
                "queue": {"weight": 2.0, "score": 0.5}, "kv": {"weight": 1.0, "score": 1.0}}},
            {"endpoint": "[::1]:8000", "chosen": False, "total": 1.3, "scores": {
                "queue": {"weight": 2.0, "score": 0.4}, "kv": {"weight": 1.0, "score": 0.5}}},
            {"endpoint": "10.0.0.1:8000", "chosen": False, "total": 0.2, "scores": {
                "queue": {"weight": 2.0, "score": 0.1}, "kv": {"weight": 1.0, "score": 0.0}}},
        ],
    }  # fmt: skip


def test_a_choice_without_scores(pool: Pool, request_: Request) -> None:
    """A request that went to the least in flight says so."""
    log = DecisionLog()
    log.record(request_, None, pool.endpoints[0], 100.0)
    told = described(log.recent()[0], 100.0)
    assert (told["by"], told["endpoints"], told["candidates"]) == ("least in flight", ["10.0.0.1:8000"], [])


def test_unknown_scores_are_none(pool: Pool, request_: Request) -> None:
    """NaN and infinity never reach the JSON, and candidates without totals are listed all the same."""
    log = DecisionLog()
    scores = np.array([np.nan, np.inf, 0.5])
    log.record(request_, Pick("p", pool.endpoints[:1], pool.endpoints, scores, (("x", 1.0, scores),)), pool.endpoints[0], 0)
    log.record(request_, Pick("p", pool.endpoints[:1], pool.endpoints), pool.endpoints[0], 0)
    without, told = (described(decision, 0) for decision in log.recent())
    json.dumps(told, allow_nan=False)
    assert [row["total"] for row in told["candidates"]] == [0.5, None, None]
    assert {row["total"] for row in without["candidates"]} == {None}


def test_the_prompt_is_not_kept(pool: Pool, pick: Pick, request_: Request) -> None:
    """The log holds nothing by which the body could be reached."""
    before = sys.getrefcount(request_), sys.getrefcount(request_.body)
    log = DecisionLog()
    log.record(request_, pick, pool.endpoints[0], 0)
    assert (sys.getrefcount(request_), sys.getrefcount(request_.body)) == before
    assert "the prompt" not in json.dumps(described(log.recent()[0], 0))


def test_recent_filters_and_limits(pool: Pool) -> None:
    """The newest come first; a request id selects its own decisions, a limit cuts."""
    log = DecisionLog()
    for number in range(10):
        log.record(Request(f"id-{number % 3}", "POST", "/", {}), None, pool.endpoints[0], float(number))
    assert [decision.at for decision in log.recent(limit=2)] == [9, 8]
    assert [decision.at for decision in log.recent(request_id="id-1")] == [7, 4, 1]
    assert [decision.at for decision in log.recent(request_id="id-1", limit=1)] == [7]
    assert log.recent(request_id="nobody") == log.recent(limit=0) == []


@given(st.lists(st.integers(0, 30), max_size=40), st.integers(1, 8), st.integers(1, 100))
def test_the_log_is_bounded(sizes: list[int], capacity: int, most: int) -> None:
    """Neither decisions nor their scores exceed the bounds, and the newest is always there."""
    log = DecisionLog(capacity, most_values=most)
    endpoint = Endpoint(EndpointSpec("10.0.0.1", 8000))
    for number, size in enumerate(sizes):
        pick = Pick("p", [endpoint], [endpoint] * size, np.zeros(size), (("x", 1.0, np.zeros(size)),))
        log.record(Request(str(number), "POST", "/", {}), pick, endpoint, 0.0)
        kept = [2 * len(decision.pick.candidates) for decision in log.recent() if decision.pick is not None]
        assert len(log) <= capacity
        assert sum(kept) <= most or len(kept) == 1
        assert log.recent(limit=1)[0].request_id == str(number)
    assert log._values == sum(2 * len(decision.pick.candidates) for decision in log.recent() if decision.pick is not None)
