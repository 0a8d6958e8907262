"""The sans-io machine of one ext_proc stream: events in, commands out, in the only order Envoy accepts.

It decides when the picker may speak, never what it says: a request's reply is withheld until its body is complete, since
the endpoint depends on the body and Envoy accepts nothing out of order (headers, then body pieces, then trailers). It
knows no clock, no protobuf and no pool.

Request phase, by the body mode Envoy announced with the first message (duplex when it announced none):

    FULL_DUPLEX_STREAMED   headers, body…, end       → Route → headers reply, body pieces, [trailers reply]
    BUFFERED               headers → empty reply; body → Route → the decision on the body's reply
    no body at all         headers with end_of_stream → Route → headers reply
    anything else          refused: the headers would have to go on before the body, and with it the choice, is known

Response phase: every message is answered at once; in duplex the same bytes, else only "go on".

A body counts against the budget of all streams from its first piece until nobody holds it any more: the answer began (the
exchange keeps the body until then, for plugins), the request was refused, or the stream is over, which `close` tells.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, ClassVar

from epp.errors import BadRequest, BodyTooLarge, Overloaded, Rejection
from epp.extproc.budget import Budget
from epp.extproc.events import (
    AnswerBegan,
    AnswerEnded,
    AnswerPassed,
    BodyMode,
    BufferedRequestReply,
    ImmediateReply,
    Mutation,
    RequestBody,
    RequestBodyReply,
    RequestHeaders,
    RequestHeadersReply,
    RequestTrailers,
    RequestTrailersReply,
    ResponseBody,
    ResponseBodyReply,
    ResponseHeaders,
    ResponseHeadersReply,
    ResponseTrailers,
    ResponseTrailersReply,
    Route,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from epp.extproc.events import Command, Event, Reply, Subset

#: Envoy takes pieces of up to 64 KiB; the reference's limit leaves room for the message around them.
MAX_PIECE = 62_000
#: What a gathered piece costs beside its bytes, as a Python object: a body in pieces of one byte is not small.
PIECE_OVERHEAD = 64


class State(Enum):
    """Where a stream stands."""

    OPEN = auto()  # nothing seen yet
    BODY = auto()  # headers seen, the body is being gathered
    DECIDING = auto()  # the request is complete, the router has been asked
    ROUTED = auto()  # the request phase is over, the answer may come
    CLOSED = auto()  # the picker answered itself; whatever still comes is ignored


class Machine:
    """One stream. Feed it `receive(event)`; after a `Route` command tell it `routed(...)` or `refused(...)`."""

    def __init__(self, max_body: int, budget: Budget | None = None) -> None:
        """Refuse request bodies of more than `max_body` bytes, or for which `budget` (all streams') has no room."""
        self.state = State.OPEN
        self._max_body = max_body
        self._budget = budget or Budget()
        self._held = 0  # taken from the budget
        self._headers: Mapping[str, str] = {}
        self._request_mode = BodyMode.FULL_DUPLEX_STREAMED
        self._response_mode = BodyMode.FULL_DUPLEX_STREAMED
        self._subset: Subset | None = None
        self._pieces: list[bytes] = []
        self._size = 0
        self._body: bytes | None = None
        self._trailers = False

    def receive(self, event: Event) -> Iterator[Command]:
        """Take what Envoy sent; give what to do, in order. An event with no place in the present state is ignored."""
        handler = self._table.get((self.state, type(event)))
        return handler(self, event) if handler else iter(())

    # --- request phase ------------------------------------------------------------------------------------------------

    def _open(self, event: RequestHeaders) -> Iterator[Command]:
        self._headers = event.headers
        self._subset = event.subset
        if event.request_mode is not None:
            self._request_mode = event.request_mode
        if event.response_mode is not None:
            self._response_mode = event.response_mode
        if event.end_of_stream:
            yield self._decide(None)
            return
        declared = event.headers.get("content-length", "")
        if self._request_mode not in (BodyMode.FULL_DUPLEX_STREAMED, BodyMode.BUFFERED):
            yield from self.refused(_unusable(self._request_mode))
        elif declared.isdecimal() and int(declared[:18]) > self._max_body:
            yield from self.refused(_too_large(self._max_body))
        else:
            self.state = State.BODY
            if self._request_mode is BodyMode.BUFFERED:
                yield RequestHeadersReply()

    def _gather(self, event: RequestBody) -> Iterator[Command]:
        self._size += len(event.data)
        if self._size > self._max_body:
            yield from self.refused(_too_large(self._max_body))
            return
        if event.data:
            if not self._hold(len(event.data) + PIECE_OVERHEAD):
                yield from self.refused(_no_room(self._budget))
                return
            self._pieces.append(event.data)
        if event.subset is not None:
            self._subset = event.subset
        if event.end_of_stream or self._request_mode is BodyMode.BUFFERED:
            yield self._decide(self._joined())

    def _ended_by_trailers(self, event: RequestTrailers) -> Iterator[Command]:
        if event.subset is not None:
            self._subset = event.subset
        if self._request_mode is BodyMode.BUFFERED:  # its headers have gone on, so the decision has nothing to ride on
            yield from self.refused(BadRequest("a request without a body cannot end with trailers"))
            return
        self._trailers = True
        yield self._decide(self._joined())

    def _pass_trailers(self, _event: RequestTrailers) -> Iterator[Command]:
        if self._request_mode is BodyMode.BUFFERED:  # in duplex they were part of the decision
            yield RequestTrailersReply()

    def _joined(self) -> bytes:
        pieces = self._pieces
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self._release(keep=len(body))
        return body

    def _hold(self, size: int) -> bool:
        taken = self._budget.take(size)
        if taken:
            self._held += size
        return taken

    def _release(self, keep: int = 0) -> None:
        self._budget.give(self._held - keep)
        self._held = keep

    def close(self) -> None:
        """The stream is over, in whichever way: hold nothing any more. Whatever still comes is ignored."""
        self.state = State.CLOSED
        self._pieces.clear()
        self._body = None
        self._release()

    def _decide(self, body: bytes | None) -> Route:
        self.state = State.DECIDING
        self._body = body
        return Route(self._headers, body, self._subset, self._trailers)

    # --- the decision ---------------------------------------------------------------------------------------------------

    def routed(self, mutation: Mutation) -> Iterator[Reply]:
        """The router chose: give the replies of the request phase, complete and in order."""
        assert self.state is State.DECIDING  # noqa: S101 - the server's contract
        self.state = State.ROUTED
        body, self._body = self._body, None
        if body is not None and self._request_mode is BodyMode.BUFFERED:
            yield BufferedRequestReply(mutation)
            return
        yield RequestHeadersReply(mutation)
        if body is not None:
            yield from _pieces(body, ends=not self._trailers)
        if self._trailers:
            yield RequestTrailersReply()

    def refused(self, rejection: Rejection) -> Iterator[Reply]:
        """The picker answers itself: give the one reply that ends the exchange."""
        self.close()
        headers = {"content-type": b"application/json"}
        if rejection.reason:
            headers["x-llm-d-request-dropped-reason"] = rejection.reason.encode()
        if rejection.retry_after is not None:
            headers["retry-after"] = str(rejection.retry_after).encode()
        details = f"epp:{rejection.reason or rejection.kind}"
        yield ImmediateReply(rejection.status, headers, rejection.body(), details, rejection)

    # --- response phase -------------------------------------------------------------------------------------------------

    def _answer_began(self, event: ResponseHeaders) -> Iterator[Command]:
        if self.state is State.ROUTED:
            self._release()
        yield ResponseHeadersReply()
        yield AnswerBegan(event)
        if event.end_of_stream:
            yield AnswerEnded()

    def _answer_passes(self, event: ResponseBody) -> Iterator[Command]:
        if self._response_mode is not BodyMode.FULL_DUPLEX_STREAMED:
            yield ResponseBodyReply(None, event.end_of_stream)
        elif len(event.data) <= MAX_PIECE:
            yield ResponseBodyReply(event.data, event.end_of_stream)
        else:
            for piece in _pieces(event.data, ends=event.end_of_stream):
                yield ResponseBodyReply(piece.data, piece.end_of_stream)
        if event.data:
            yield AnswerPassed(event.data)
        if event.end_of_stream:
            yield AnswerEnded()

    def _answer_trailers(self, _event: ResponseTrailers) -> Iterator[Command]:
        yield ResponseTrailersReply()
        yield AnswerEnded()

    #: What each state accepts. Once routed, a repeated final piece of the request (Envoy 1.35 and later) finds no row.
    _table: ClassVar[dict[tuple[State, type], Callable[..., Iterator[Command]]]] = {
        (State.OPEN, RequestHeaders): _open,
        (State.BODY, RequestBody): _gather,
        (State.BODY, RequestTrailers): _ended_by_trailers,
        (State.ROUTED, RequestTrailers): _pass_trailers,
        # Another filter may answer before the request is complete: its answer passes too.
        (State.BODY, ResponseHeaders): _answer_began,
        (State.BODY, ResponseBody): _answer_passes,
        (State.BODY, ResponseTrailers): _answer_trailers,
        (State.ROUTED, ResponseHeaders): _answer_began,
        (State.ROUTED, ResponseBody): _answer_passes,
        (State.ROUTED, ResponseTrailers): _answer_trailers,
    }


def _pieces(body: bytes, *, ends: bool) -> Iterator[RequestBodyReply]:
    if len(body) <= MAX_PIECE:
        if body or ends:
            yield RequestBodyReply(body, ends)
        return
    for start in range(0, len(body), MAX_PIECE):
        end = start + MAX_PIECE
        yield RequestBodyReply(body[start:end], ends and end >= len(body))


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"the request body exceeds the picker's limit of {limit} bytes (--max-body-bytes)")


def _no_room(budget: Budget) -> Overloaded:
    limit = f"{budget.limit:.0f} bytes, --max-buffered-bytes"
    return Overloaded(f"the picker holds as many request bodies as it may ({limit}); try again later")


def _unusable(mode: BodyMode) -> Rejection:
    return Rejection(f"ext_proc request_body_mode {mode.name} cannot route by body: set FULL_DUPLEX_STREAMED or BUFFERED")
