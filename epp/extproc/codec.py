"""Protobuf to events and replies to protobuf, for `envoy.service.ext_proc.v3.ExternalProcessor/Process`.

Header values are set as `raw_value` only (Envoy rejects a mutation that has both forms) and always overwrite.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from epp.endpoints.endpoint import split_address
from epp.extproc import events
from epp.extproc.events import BodyMode
from epp.pb.base_pb2 import HeaderValueOption
from epp.pb.ext_proc_pb2 import ProcessingRequest, ProcessingResponse

if TYPE_CHECKING:
    from epp.pb.base_pb2 import HeaderMap
    from epp.pb.ext_proc_pb2 import CommonResponse, HeaderMutation

SUBSET_NAMESPACE, SUBSET_KEY = "envoy.lb.subset_hint", "x-gateway-destination-endpoint-subset"
SERVED_NAMESPACE, SERVED_KEY = "envoy.lb", "x-gateway-destination-endpoint-served"

_OVERWRITE = HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD


def decode(message: bytes) -> events.Event | None:
    """Read one ProcessingRequest; None for a message of a kind this picker does not know.

    Raises google.protobuf.message.DecodeError when the bytes are not a ProcessingRequest.
    """
    request = ProcessingRequest.FromString(message)
    match request.WhichOneof("request"):
        case "request_headers":
            return _request_headers(request)
        case "request_body":
            body = request.request_body
            return events.RequestBody(body.body, body.end_of_stream, _subset(request))
        case "request_trailers":
            return events.RequestTrailers(_subset(request))
        case "response_headers":
            head = request.response_headers
            return events.ResponseHeaders(_headers(head.headers), head.end_of_stream, _served(request))
        case "response_body":
            return events.ResponseBody(request.response_body.body, request.response_body.end_of_stream)
        case "response_trailers":
            return events.ResponseTrailers()
    return None


def _request_headers(request: ProcessingRequest) -> events.RequestHeaders:
    head = request.request_headers
    request_mode = response_mode = None
    if request.HasField("protocol_config"):
        request_mode = _mode(request.protocol_config.request_body_mode)
        response_mode = _mode(request.protocol_config.response_body_mode)
    return events.RequestHeaders(_headers(head.headers), head.end_of_stream, request_mode, response_mode, _subset(request))


def _mode(number: int) -> BodyMode:
    try:
        return BodyMode(number)
    except ValueError:  # a mode newer than this picker: refused like the other unusable ones
        return BodyMode.GRPC


def _headers(headers: HeaderMap) -> dict[str, str]:
    return {
        header.key.lower(): header.raw_value.decode("utf-8", "backslashreplace") if header.raw_value else header.value
        for header in headers.headers
    }


def _subset(request: ProcessingRequest) -> events.Subset | None:
    """Read the subset: a list of addresses, a comma string, or a list of comma strings; None when the key is absent."""
    if not request.HasField("metadata_context"):
        return None
    namespaces = request.metadata_context.filter_metadata
    if SUBSET_NAMESPACE not in namespaces:
        return None
    fields = namespaces[SUBSET_NAMESPACE].fields
    if SUBSET_KEY not in fields:
        return None
    value = fields[SUBSET_KEY]
    items = value.list_value.values if value.HasField("list_value") else [value]
    subset = []
    for item in items:
        for text in item.string_value.split(","):
            try:
                subset.append(split_address(text))
            except ValueError:
                continue  # as the reference: what is no address selects nobody
    return subset


def _served(request: ProcessingRequest) -> str | None:
    if not request.HasField("metadata_context"):
        return None
    namespaces = request.metadata_context.filter_metadata
    if SERVED_NAMESPACE not in namespaces or SERVED_KEY not in namespaces[SERVED_NAMESPACE].fields:
        return None
    return namespaces[SERVED_NAMESPACE].fields[SERVED_KEY].string_value or None


def encode(reply: events.Reply) -> bytes:
    """Write one reply as a ProcessingResponse."""
    response = ProcessingResponse()
    _WRITERS[type(reply)](response, reply)
    return response.SerializeToString()


def _write_request_headers(response: ProcessingResponse, reply: events.RequestHeadersReply) -> None:
    response.request_headers.SetInParent()
    if reply.mutation is not None:
        _decide(response, response.request_headers.response, reply.mutation)


def _write_buffered_request(response: ProcessingResponse, reply: events.BufferedRequestReply) -> None:
    _decide(response, response.request_body.response, reply.mutation)


def _write_request_body(response: ProcessingResponse, reply: events.RequestBodyReply) -> None:
    streamed = response.request_body.response.body_mutation.streamed_response
    streamed.SetInParent()
    streamed.body, streamed.end_of_stream = reply.data, reply.end_of_stream


def _write_request_trailers(response: ProcessingResponse, _reply: events.RequestTrailersReply) -> None:
    response.request_trailers.SetInParent()


def _write_response_headers(response: ProcessingResponse, _reply: events.ResponseHeadersReply) -> None:
    response.response_headers.SetInParent()


def _write_response_body(response: ProcessingResponse, reply: events.ResponseBodyReply) -> None:
    response.response_body.SetInParent()
    if reply.data is not None:
        streamed = response.response_body.response.body_mutation.streamed_response
        streamed.SetInParent()
        streamed.body, streamed.end_of_stream = reply.data, reply.end_of_stream


def _write_response_trailers(response: ProcessingResponse, _reply: events.ResponseTrailersReply) -> None:
    response.response_trailers.SetInParent()


def _write_immediate(response: ProcessingResponse, reply: events.ImmediateReply) -> None:
    immediate = response.immediate_response
    immediate.status.code = reply.status  # absent would mean 200 to Envoy
    immediate.body, immediate.details = reply.body, reply.details
    _set_headers(immediate.headers, reply.headers)


_WRITERS: dict[type, Callable[[ProcessingResponse, Any], None]] = {
    events.RequestHeadersReply: _write_request_headers,
    events.BufferedRequestReply: _write_buffered_request,
    events.RequestBodyReply: _write_request_body,
    events.RequestTrailersReply: _write_request_trailers,
    events.ResponseHeadersReply: _write_response_headers,
    events.ResponseBodyReply: _write_response_body,
    events.ResponseTrailersReply: _write_response_trailers,
    events.ImmediateReply: _write_immediate,
}


def _decide(response: ProcessingResponse, common: CommonResponse, mutation: events.Mutation) -> None:
    common.clear_route_cache = True
    _set_headers(common.header_mutation, mutation.set_headers)
    if mutation.remove_headers:
        common.header_mutation.remove_headers.extend(mutation.remove_headers)
    for namespace, values in mutation.metadata.items():
        fields = response.dynamic_metadata.fields[namespace].struct_value.fields
        for key, value in values.items():
            if isinstance(value, str):
                fields[key].string_value = value
            else:  # the scores of the endpoints
                scores = fields[key].struct_value.fields
                for endpoint, score in value.items():
                    scores[endpoint].number_value = score


def _set_headers(mutation: HeaderMutation, headers: Mapping[str, bytes]) -> None:
    for name, value in headers.items():
        option = mutation.set_headers.add(append_action=_OVERWRITE)
        option.header.key, option.header.raw_value = name, value
