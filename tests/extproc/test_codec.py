"""Our slim protos against an independent codec of Envoy's full ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.extensions.filters.http.ext_proc import v3 as filter_config
from envoy_data_plane.envoy.service.ext_proc import v3 as wire
from envoy_data_plane.google import protobuf

from epp.extproc import events as ev
from epp.extproc.codec import decode, encode

if TYPE_CHECKING:
    from collections.abc import Sequence


def struct(**values: str | list[str]) -> protobuf.Struct:
    """Build a Struct of strings and lists of strings."""
    fields = {}
    for key, value in values.items():
        if isinstance(value, str):
            fields[key.replace("_", "-")] = protobuf.Value(string_value=value)
        else:
            items = [protobuf.Value(string_value=item) for item in value]
            fields[key.replace("_", "-")] = protobuf.Value(list_value=protobuf.ListValue(values=items))
    return protobuf.Struct(fields=fields)


def test_request_headers_are_read_with_modes_and_raw_values() -> None:
    """Names come out in lower case, raw_value beats value, the modes of the first message are known."""
    headers = core.HeaderMap(headers=[
        core.HeaderValue(key=":path", raw_value=b"/v1/chat/completions"), core.HeaderValue(key="X-Old", value="text"),
        core.HeaderValue(key="odd", raw_value=b"\xff"),
    ])  # fmt: skip
    message = wire.ProcessingRequest(
        request_headers=wire.HttpHeaders(headers=headers, end_of_stream=True),
        protocol_config=wire.ProtocolConfiguration(
            request_body_mode=filter_config.ProcessingModeBodySendMode.FULL_DUPLEX_STREAMED,
            response_body_mode=filter_config.ProcessingModeBodySendMode.NONE,
        ),
    )
    assert decode(bytes(message)) == ev.RequestHeaders(
        {":path": "/v1/chat/completions", "x-old": "text", "odd": "\\xff"},
        end_of_stream=True, request_mode=ev.BodyMode.FULL_DUPLEX_STREAMED, response_mode=ev.BodyMode.NONE,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (["10.0.0.1:8000", "[fd00::1]:8000", "10.0.0.2"], [("10.0.0.1", 8000), ("fd00::1", 8000), ("10.0.0.2", None)]),
        ("10.0.0.1:8000, 10.0.0.2:8001", [("10.0.0.1", 8000), ("10.0.0.2", 8001)]),
        (["10.0.0.1:8000,10.0.0.2:8000"], [("10.0.0.1", 8000), ("10.0.0.2", 8000)]),
        (["not an address"], []),
        ([], []),
        ("", []),
    ],
)
def test_the_subset_is_read_in_all_its_forms(value: str | list[str], expected: Sequence[tuple[str, int | None]]) -> None:
    """A list, a comma string and a list of comma strings all name endpoints; present but empty is not absent."""
    metadata = core.Metadata(filter_metadata={"envoy.lb.subset_hint": struct(x_gateway_destination_endpoint_subset=value)})
    event = decode(bytes(wire.ProcessingRequest(request_body=wire.HttpBody(body=b"x"), metadata_context=metadata)))
    assert event == ev.RequestBody(b"x", end_of_stream=False, subset=expected)


def test_other_events_are_read() -> None:
    """Trailers, response headers with the served endpoint, response body."""
    served = core.Metadata(filter_metadata={"envoy.lb": struct(x_gateway_destination_endpoint_served="10.0.0.9:8000")})
    headers = core.HeaderMap(headers=[core.HeaderValue(key=":status", raw_value=b"200")])
    message = wire.ProcessingRequest(response_headers=wire.HttpHeaders(headers=headers), metadata_context=served)
    assert decode(bytes(message)) == ev.ResponseHeaders({":status": "200"}, end_of_stream=False, served="10.0.0.9:8000")
    assert decode(bytes(wire.ProcessingRequest(request_trailers=wire.HttpTrailers()))) == ev.RequestTrailers()
    assert decode(bytes(wire.ProcessingRequest(response_trailers=wire.HttpTrailers()))) == ev.ResponseTrailers()
    body = wire.ProcessingRequest(response_body=wire.HttpBody(body=b"y", end_of_stream=True))
    assert decode(bytes(body)) == ev.ResponseBody(b"y", end_of_stream=True)
    assert decode(b"") is None


def test_the_decision_is_written_as_envoy_reads_it() -> None:
    """Headers go as raw_value with explicit overwrite, metadata under its namespace, the route cache is cleared."""
    scores = {"10.0.0.1:8000": 0.5}
    mutation = ev.Mutation({"x-a": "ü".encode()}, ["x-gone"], {"envoy.lb": {"dest": "10.0.0.1:8000", "scores": scores}})
    reply = wire.ProcessingResponse.parse(encode(ev.RequestHeadersReply(mutation)))
    assert reply.request_headers is not None
    common = reply.request_headers.response
    assert common is not None
    assert common.clear_route_cache
    assert common.header_mutation is not None
    (option,) = common.header_mutation.set_headers
    assert option.header == core.HeaderValue(key="x-a", raw_value="ü".encode())
    assert option.append_action == core.HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD
    assert common.header_mutation.remove_headers == ["x-gone"]
    assert reply.dynamic_metadata is not None
    assert reply.dynamic_metadata.to_dict() == {"envoy.lb": {"dest": "10.0.0.1:8000", "scores": scores}}


def test_body_pieces_keep_their_bytes_and_end() -> None:
    """Streamed pieces carry data and end_of_stream, also when both are empty or false."""
    for data, end in ((b"\x00\xff", True), (b"", False), (b"", True)):
        expected = wire.StreamedBodyResponse(body=data, end_of_stream=end)
        reply = wire.ProcessingResponse.parse(encode(ev.RequestBodyReply(data, end)))
        assert reply.request_body is not None
        assert reply.request_body.response is not None
        assert reply.request_body.response.body_mutation is not None
        assert reply.request_body.response.body_mutation.streamed_response == expected
        answer = wire.ProcessingResponse.parse(encode(ev.ResponseBodyReply(data, end)))
        assert answer.response_body is not None
        assert answer.response_body.response is not None
        assert answer.response_body.response.body_mutation is not None
        assert answer.response_body.response.body_mutation.streamed_response == expected


def test_an_immediate_answer_names_its_status() -> None:
    """Status, headers, body and details arrive."""
    reply = wire.ProcessingResponse.parse(encode(ev.ImmediateReply(413, {"content-type": b"application/json"}, b"{}", "epp:x")))
    immediate = reply.immediate_response
    assert immediate is not None
    assert immediate.status is not None
    assert immediate.status.code == 413
    assert (immediate.body, immediate.details) == (b"{}", "epp:x")


@pytest.mark.parametrize(
    ("reply", "field"),
    [
        (ev.RequestHeadersReply(), "request_headers"), (ev.BufferedRequestReply(ev.Mutation()), "request_body"),
        (ev.RequestTrailersReply(), "request_trailers"), (ev.ResponseHeadersReply(), "response_headers"),
        (ev.ResponseBodyReply(None, end_of_stream=True), "response_body"), (ev.ResponseTrailersReply(), "response_trailers"),
    ],
)  # fmt: skip
def test_every_reply_says_what_it_answers(reply: ev.Reply, field: str) -> None:
    """An empty reply still fills its field of the oneof: an unset one is spurious to Envoy."""
    assert getattr(wire.ProcessingResponse.parse(encode(reply)), field) is not None
