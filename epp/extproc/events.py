"""The vocabulary of an ext_proc stream: events come from Envoy, commands go to the server around the machine.

Plain values; protobuf is the codec's business. Header names are lower case, values text (undecodable bytes escaped).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TypeAlias

from epp.errors import Rejection


class BodyMode(IntEnum):
    """Envoy's body send modes, by their numbers on the wire."""

    NONE = 0
    STREAMED = 1
    BUFFERED = 2
    BUFFERED_PARTIAL = 3
    FULL_DUPLEX_STREAMED = 4
    GRPC = 5


Subset: TypeAlias = Sequence[tuple[str, int | None]]  # (address, port or None for any)

# --- events -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RequestHeaders:
    """The first message. The modes come with it; None when the data plane did not say (then duplex is assumed)."""

    headers: Mapping[str, str]
    end_of_stream: bool = False
    request_mode: BodyMode | None = None
    response_mode: BodyMode | None = None
    subset: Subset | None = None


@dataclass(frozen=True, slots=True)
class RequestBody:
    """A piece of the request body, cut anywhere."""

    data: bytes
    end_of_stream: bool = False
    subset: Subset | None = None


@dataclass(frozen=True, slots=True)
class RequestTrailers:
    """The request ended with trailers; no body piece before had end_of_stream."""

    subset: Subset | None = None


@dataclass(frozen=True, slots=True)
class ResponseHeaders:
    """The model server began to answer. `served` is the endpoint Envoy says it used."""

    headers: Mapping[str, str]
    end_of_stream: bool = False
    served: str | None = None


@dataclass(frozen=True, slots=True)
class ResponseBody:
    """A piece of the answer."""

    data: bytes
    end_of_stream: bool = False


@dataclass(frozen=True, slots=True)
class ResponseTrailers:
    """The answer ended with trailers."""


Event: TypeAlias = RequestHeaders | RequestBody | RequestTrailers | ResponseHeaders | ResponseBody | ResponseTrailers

# --- commands: replies to Envoy -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Mutation:
    """What a reply changes: headers set (overwriting) and removed, and dynamic metadata by namespace."""

    set_headers: Mapping[str, bytes] = field(default_factory=dict)
    remove_headers: Sequence[str] = ()
    metadata: Mapping[str, Mapping[str, str | Mapping[str, float]]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RequestHeadersReply:
    """Lets the request headers go on; with a `mutation` it is the decision and clears the route cache."""

    mutation: Mutation | None = None


@dataclass(frozen=True, slots=True)
class RequestBodyReply:
    """A piece of the request body on its way, byte for byte (FULL_DUPLEX_STREAMED)."""

    data: bytes
    end_of_stream: bool


@dataclass(frozen=True, slots=True)
class BufferedRequestReply:
    """The decision in BUFFERED mode, where it rides on the body's reply; the body itself stays with Envoy."""

    mutation: Mutation


@dataclass(frozen=True, slots=True)
class RequestTrailersReply:
    """Lets the request trailers go on."""


@dataclass(frozen=True, slots=True)
class ResponseHeadersReply:
    """Lets the answer's headers go on, unchanged."""


@dataclass(frozen=True, slots=True)
class ResponseBodyReply:
    """A piece of the answer on its way. `data` is None where Envoy kept the bytes (not FULL_DUPLEX_STREAMED)."""

    data: bytes | None
    end_of_stream: bool


@dataclass(frozen=True, slots=True)
class ResponseTrailersReply:
    """Lets the answer's trailers go on."""


@dataclass(frozen=True, slots=True)
class ImmediateReply:
    """Ends the exchange with the picker's own answer."""

    status: int
    headers: Mapping[str, bytes]
    body: bytes
    details: str
    rejection: Rejection | None = field(default=None, compare=False, repr=False)  # what it says, for whoever counts


Reply: TypeAlias = (
    RequestHeadersReply | RequestBodyReply | BufferedRequestReply | RequestTrailersReply
    | ResponseHeadersReply | ResponseBodyReply | ResponseTrailersReply | ImmediateReply
)  # fmt: skip

# --- commands: work for the server ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Route:
    """The request is complete: ask the router, then tell the machine `routed` or `refused`. `body` is None without a body.

    With `trailers` the streamed body was ended by trailers, which some routes of the proxy had better know.
    """

    headers: Mapping[str, str]
    body: bytes | None
    subset: Subset | None
    trailers: bool = False


@dataclass(frozen=True, slots=True)
class AnswerBegan:
    """The answer's headers passed."""

    event: ResponseHeaders


@dataclass(frozen=True, slots=True)
class AnswerPassed:
    """Bytes of the answer passed."""

    data: bytes


@dataclass(frozen=True, slots=True)
class AnswerEnded:
    """The answer passed to its end."""


Command: TypeAlias = Reply | Route | AnswerBegan | AnswerPassed | AnswerEnded
