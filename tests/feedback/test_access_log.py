"""Access-log entries as Envoy writes them, translated."""

from __future__ import annotations

import pytest
from google.protobuf import json_format
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from epp.api import Usage
from epp.feedback.access_log import Entry, translate
from epp.pb.access_log_pb2 import HTTPAccessLogEntry

ENTRY = {
    "commonProperties": {
        "timeToFirstUpstreamRxByte": "0.107s",
        "timeToLastUpstreamRxByte": "1.05s",
        "timeToLastDownstreamTxByte": "1.06s",
        "duration": "1.07s",
        "upstreamRemoteAddress": {"socketAddress": {"address": "10.0.0.1", "portValue": 8000}},
        "metadata": {
            "filterMetadata": {
                "envoy.lb": {"x-gateway-destination-endpoint": "10.0.0.1:8000", "x-epp-lease": "abc-1"},
                "epp.usage": {"prompt_tokens": 11, "completion_tokens": "20", "cached_tokens": 0},
            }
        },
    },
    "request": {"requestId": "id-1", "path": "/v1/chat/completions"},
    "response": {"responseCode": {"value": 200}, "responseBodyBytes": "512", "responseCodeDetails": "via_upstream"},
}


def entry(**common: object) -> Entry:
    """Translate an entry with these common properties."""
    return translate(json_format.ParseDict({"commonProperties": common}, HTTPAccessLogEntry()))


def answered(status: int, details: str) -> Entry:
    """Translate an entry with this status and these details."""
    response = {"responseCode": {"value": status}, "responseCodeDetails": details}
    return translate(json_format.ParseDict({"response": response}, HTTPAccessLogEntry()))


def test_a_full_entry() -> None:
    """Everything the picker wants stands in one entry."""
    translated = translate(json_format.ParseDict(ENTRY, HTTPAccessLogEntry()))
    assert translated == Entry(
        lease="abc-1",
        request_id="id-1",
        cause="natural",
        status=200,
        details="via_upstream",
        served="10.0.0.1:8000",
        ttft=0.107,
        last_byte=1.05,
        duration=1.06,
        response_bytes=512,
        usage=Usage(11, 20, 0),
    )
    assert translated.good
    assert translated.streamed


def test_an_empty_entry() -> None:
    """An entry that says nothing is an exchange that came to nothing."""
    assert translate(HTTPAccessLogEntry()) == Entry(cause="client-disconnect", response_bytes=0)


@pytest.mark.parametrize(
    ("status", "details", "cause"),
    [
        (200, "via_upstream", "natural"),
        (500, "via_upstream", "natural"),
        (200, "", "natural"),
        (0, "", "client-disconnect"),
        (0, "downstream_remote_disconnect", "client-disconnect"),
        (200, "downstream_remote_disconnect", "client-disconnect"),
        (200, "http2.remote_reset", "client-disconnect"),
        (200, "http3.remote_reset", "client-disconnect"),
        (503, "upstream_reset_before_response_started{connection_termination}", "error"),
        (200, "upstream_reset_after_response_started{connection_termination}", "error"),
        (504, "response_timeout", "error"),
        (503, "no_healthy_upstream", "error"),
        (0, "stream_idle_timeout", "error"),
    ],
)
def test_causes(status: int, details: str, cause: str) -> None:
    """Whether the client left, Envoy cut it short, or the model server answered to the end stands in the details."""
    translated = answered(status, details)
    assert (translated.cause, translated.status) == (cause, status or None)


@pytest.mark.parametrize(
    ("address", "port", "served"),
    [
        ("::1", 8000, "[::1]:8000"),
        ("2001:DB8:0::1", 9, "[2001:db8::1]:9"),
        ("10.0.0.1", 8000, "10.0.0.1:8000"),
        ("model-server", 8000, "model-server:8000"),
        ("", 8000, None),
        ("10.0.0.1", 0, None),
    ],
)
def test_served_endpoints(address: str, port: int, served: str | None) -> None:
    """The served endpoint bears the pool's name for it, IPv6 in brackets; a pipe or nothing is unknown."""
    assert entry(upstreamRemoteAddress={"socketAddress": {"address": address, "portValue": port}}).served == served
    assert entry(upstreamRemoteAddress={}).served is None


def test_duration_falls_back() -> None:
    """Where no byte went to the client the whole duration stands in; a negative time is unknown."""
    assert entry(duration="2s").duration == 2
    assert entry(duration="2s", timeToLastDownstreamTxByte="1s").duration == 1
    assert entry(timeToFirstUpstreamRxByte="-1s").ttft is None


@pytest.mark.parametrize(("first", "last", "streamed"), [("1s", "1.05s", False), ("1s", "2s", True), ("0s", "0s", False)])
def test_streamed_answers(first: str, last: str, *, streamed: bool) -> None:
    """An answer whose last byte comes well after its first one came in pieces."""
    assert entry(timeToFirstUpstreamRxByte=first, timeToLastUpstreamRxByte=last).streamed is streamed
    assert entry(timeToFirstUpstreamRxByte=first, duration=last).streamed is streamed
    assert entry(timeToFirstUpstreamRxByte=first).streamed is False


@pytest.mark.parametrize(
    "value", [-1, 1e300, "NaN", "inf", "", "many", None, True, {"a": 1}, [1]], ids=[str(n) for n in range(10)]
)
def test_strange_usage_is_unknown(value: object) -> None:
    """A count that is no count is unknown, whatever a filter wrote."""
    message = HTTPAccessLogEntry()
    json_format.ParseDict(
        {"prompt_tokens": value, "cached_tokens": 4}, message.common_properties.metadata.filter_metadata["epp.usage"]
    )
    assert translate(message).usage == Usage(cached_tokens=4)


def test_a_lease_that_is_no_text_is_none() -> None:
    """Somebody else's value under the picker's key is no lease."""
    message = HTTPAccessLogEntry()
    message.common_properties.metadata.filter_metadata["envoy.lb"].update({"x-epp-lease": 5})
    assert translate(message).lease == ""


def test_intermediate_entries_are_marked() -> None:
    """An entry Envoy wrote while the request ran says so."""
    assert entry(intermediateLogEntry=True).intermediate
    assert not entry().intermediate


@given(st.binary(max_size=200))
def test_any_entry_is_translated(raw: bytes) -> None:
    """Whatever decodes as an entry is translated."""
    message = HTTPAccessLogEntry()
    try:
        message.ParseFromString(raw)
    except DecodeError:  # not an entry; the service passes it over
        return
    assert translate(message).cause in {"natural", "client-disconnect", "error"}
