"""A gateway that narrows the choice: subset metadata written by a filter of a real Envoy, and read by the picker."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import pytest
from google.protobuf.struct_pb2 import ListValue, Value

from epp.simulator.options import SimulatorOptions
from tests.e2e.configs import changed, using
from tests.e2e.stack import Answer, Stack, stack

SPREAD = using("random-picker")  # whoever is eligible is seen
KEY = {"metadata_namespace": "envoy.lb.subset_hint", "key": "x-gateway-destination-endpoint-subset"}
TEXT, TYPED = "x-subset", "x-subset-value"


def subset_from_headers(manager: dict[str, Any]) -> None:
    """Let Envoy make the subset of a header: TEXT as a string, TYPED as the protobuf value it holds in base64."""
    rules = [
        {"header": TEXT, "on_header_present": {**KEY, "type": "STRING"}, "remove": True},
        {"header": TYPED, "on_header_present": {**KEY, "type": "PROTOBUF_VALUE", "encode": "BASE64"}, "remove": True},
    ]
    kind = "type.googleapis.com/envoy.extensions.filters.http.header_to_metadata.v3.Config"
    step = {"name": "envoy.filters.http.header_to_metadata", "typed_config": {"@type": kind, "request_rules": rules}}
    manager["http_filters"].insert(0, step)


def listed(*items: str) -> dict[str, str]:
    """Give the header that becomes a list."""
    value = Value(list_value=ListValue(values=[Value(string_value=item) for item in items]))
    return {TYPED: base64.b64encode(value.SerializeToString()).decode()}


async def eligible(running: Stack, headers: dict[str, str], count: int = 40) -> set[int]:
    """Tell which servers answer requests with `headers`."""
    answers = await asyncio.gather(*(running.chat(headers=headers) for _ in range(count)))
    assert {answer.status for answer in answers} == {200}, answers[0].body
    return {number for number in range(len(running.servers)) for answer in answers if answer.served == running.key(number)}


def assert_refused(answer: Answer) -> None:
    """See that nobody was eligible, and that the answer says so."""
    assert answer.status == 503
    assert answer.headers["x-llm-d-request-dropped-reason"] == "rejected-no-endpoints"
    assert "subset" in answer.json()["error"]["message"]


async def test_only_the_endpoints_of_the_subset_are_chosen() -> None:
    """List, comma text and lists of comma texts; a port belongs to the endpoint, an address alone means all its ports."""
    async with stack([SimulatorOptions(speed=50)] * 3, config=SPREAD, rendered=changed(subset_from_headers)) as running:
        first, second, third = (running.key(number) for number in range(3))
        assert await eligible(running, {}) == {0, 1, 2}
        assert await eligible(running, {TEXT: second}, 8) == {1}
        assert await eligible(running, {TEXT: f"{first} , {third}"}) == {0, 2}
        assert await eligible(running, listed(third), 8) == {2}
        assert await eligible(running, listed(first, second)) == {0, 1}
        assert await eligible(running, listed(f"{first},10.9.9.9:80", second)) == {0, 1}
        assert await eligible(running, {TEXT: "127.0.0.1"}) == {0, 1, 2}
        assert await eligible(running, listed("nonsense", third), 8) == {2}


async def test_a_subset_without_an_eligible_endpoint_is_a_503() -> None:
    """Another port, another address, nothing readable, an empty list: also for requests without a body."""
    async with stack(2, rendered=changed(subset_from_headers)) as running:
        for headers in (listed("127.0.0.1:1"), listed("10.9.9.9"), listed("nonsense"), listed(), {TEXT: "10.9.9.9:80"}):
            assert_refused(await running.chat(headers=headers))
            assert_refused(await running.request("GET", "/v1/models", headers=headers))
        answer = await running.request("GET", "/v1/models", headers=listed(running.key(1)))
        assert (answer.status, answer.served) == (200, running.key(1))
        assert (await running.chat()).status == 200


@pytest.mark.parametrize("mode", ["buffered", "duplex"])
async def test_the_subset_counts_in_the_other_modes_too(mode: str) -> None:
    """Which message carries the metadata differs by mode."""
    async with stack(2, mode=mode, rendered=changed(subset_from_headers)) as running:
        for number in (0, 1):
            assert await eligible(running, listed(running.key(number)), 6) == {number}
        assert_refused(await running.chat(headers=listed("127.0.0.1:1")))


async def test_the_subset_can_be_ignored() -> None:
    """--disable-endpoint-subset-filter, as the reference has it."""
    flags = ["--disable-endpoint-subset-filter"]
    async with stack(2, config=SPREAD, arguments=flags, rendered=changed(subset_from_headers)) as running:
        assert await eligible(running, listed("10.9.9.9:80")) == {0, 1}
