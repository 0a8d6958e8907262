"""Translates an entry of Envoy's access log into what the picker wants to know of an answer. Decides nothing else, keeps nothing.

Strange values (no address, NaN counts, negative times) become unknown: an entry is never refused for one of them.
"""

from __future__ import annotations

import contextlib
import functools
import ipaddress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from epp.api import Usage, join_address
from epp.router import MAX_ID

if TYPE_CHECKING:
    from google.protobuf.duration_pb2 import Duration
    from google.protobuf.struct_pb2 import Struct

    from epp.pb.access_log_pb2 import AccessLogCommon, HTTPAccessLogEntry
    from epp.pb.base_pb2 import Address

PICKER_NAMESPACE = "envoy.lb"
LEASE_KEY = "x-epp-lease"
USAGE_NAMESPACE = "epp.usage"

NATURAL, CLIENT_DISCONNECT, ERROR = "natural", "client-disconnect", "error"

#: Envoy's `response_code_details` of a client that went away: its connection closed, or its HTTP/2 or HTTP/3 stream was reset.
_DISCONNECTED = ("downstream_remote_disconnect", "http2.remote_reset", "http3.remote_reset", "http2.remote_refuse")
_COMPLETE = frozenset({"", "-", "via_upstream"})
_LARGEST = 2.0**53
_STREAMED = 0.1  # an answer whose body took more than this share of its first byte's wait came in pieces


@dataclass(frozen=True, slots=True)
class Entry:
    """One answered, failed or abandoned request as Envoy saw it; None where Envoy did not say.

    `lease` is the exchange's id as the picker put it into the dynamic metadata, empty for a request it did not route.
    Seconds count from the request's first byte at Envoy; `last_byte` is when the model server's last byte came.
    """

    lease: str = ""
    request_id: str = ""
    cause: str = NATURAL
    status: int | None = None
    details: str = ""
    served: str | None = None
    ttft: float | None = None
    last_byte: float | None = None
    duration: float | None = None
    response_bytes: int | None = None
    usage: Usage = field(default_factory=Usage)
    intermediate: bool = False

    @property
    def good(self) -> bool:
        """Whether a model server answered, and not with an error."""
        return self.status is not None and self.status < 400

    @property
    def streamed(self) -> bool:
        """Whether the answer came in pieces, so that its first byte tells of its first token."""
        end = self.duration if self.last_byte is None else self.last_byte  # an answer cut short has no last byte
        if self.ttft is None or end is None:
            return False
        return end - self.ttft > self.ttft * _STREAMED


def translate(entry: HTTPAccessLogEntry) -> Entry:
    """Give what the picker reads from `entry`."""
    common, response = entry.common_properties, entry.response
    metadata = common.metadata.filter_metadata
    status = (response.response_code.value if response.HasField("response_code") else 0) or None
    details = response.response_code_details
    return Entry(
        lease=_text(metadata[PICKER_NAMESPACE], LEASE_KEY) if PICKER_NAMESPACE in metadata else "",
        request_id=entry.request.request_id[:MAX_ID],  # as the router keeps it
        cause=_cause(status, details),
        status=status,
        details=details,
        served=_endpoint(common.upstream_remote_address) if common.HasField("upstream_remote_address") else None,
        ttft=_seconds(common, "time_to_first_upstream_rx_byte"),
        last_byte=_seconds(common, "time_to_last_upstream_rx_byte"),
        duration=_first(_seconds(common, "time_to_last_downstream_tx_byte"), _seconds(common, "duration")),
        response_bytes=response.response_body_bytes,
        usage=_usage(metadata[USAGE_NAMESPACE]) if USAGE_NAMESPACE in metadata else Usage(),
        intermediate=common.intermediate_log_entry,
    )


def _cause(status: int | None, details: str) -> str:
    if details.startswith(_DISCONNECTED):
        return CLIENT_DISCONNECT
    if details in _COMPLETE:
        return NATURAL if status is not None else CLIENT_DISCONNECT
    return ERROR  # Envoy answered, or cut the answer short: timeouts, resets, no healthy upstream


def _endpoint(address: Address) -> str | None:
    socket = address.socket_address
    if not socket.address or not socket.port_value:
        return None  # a pipe, or nothing
    return _name(socket.address, socket.port_value)


@functools.lru_cache(maxsize=4096)  # the same few endpoints serve all requests
def _name(address: str, port: int) -> str:
    with contextlib.suppress(ValueError):  # what is no IP address stands as it is: the outcome tells it all the same
        address = str(ipaddress.ip_address(address))
    return join_address(address, port)


def _seconds(common: AccessLogCommon, name: str) -> float | None:
    if not common.HasField(name):
        return None
    duration: Duration = getattr(common, name)
    seconds = duration.seconds + duration.nanos / 1e9
    return seconds if seconds >= 0 else None


def _first(*values: float | None) -> float | None:
    return next((value for value in values if value is not None), None)


def _text(values: Struct, key: str) -> str:
    return values.fields[key].string_value if key in values.fields else ""


def _usage(values: Struct) -> Usage:
    return Usage(
        prompt_tokens=_number(values, "prompt_tokens"),
        completion_tokens=_number(values, "completion_tokens"),
        cached_tokens=_number(values, "cached_tokens"),
    )


def _number(values: Struct, key: str) -> int | None:
    """Give a count that came as a number, or as text: Envoy's metadata filters can be told to write either."""
    if key not in values.fields:
        return None
    value = values.fields[key]
    try:
        number = float(value.string_value) if value.HasField("string_value") else value.number_value
    except ValueError:
        return None
    known = value.HasField("string_value") or value.HasField("number_value")
    return int(number) if known and 0 <= number <= _LARGEST else None
