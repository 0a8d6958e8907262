"""The machine's invariants: the order Envoy demands, bytes untouched, whatever the cut."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.errors import NoEndpoints
from epp.extproc import events as ev
from epp.extproc.budget import Budget
from epp.extproc.events import BodyMode, Mutation
from epp.extproc.machine import MAX_PIECE, PIECE_OVERHEAD, Machine, State

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MUTATION = Mutation({"x-gateway-destination-endpoint": b"10.0.0.1:8000"})
POST = ev.RequestHeaders({":method": "POST", ":path": "/v1/completions"})


def converse(machine: Machine, said: Iterable[ev.Event], answer: Mutation | Exception = MUTATION) -> list[ev.Command]:
    """Play Envoy: feed the events and answer the machine's question at once, as the service does."""
    out: list[ev.Command] = []
    for event in said:
        for command in machine.receive(event):
            out.append(command)
            if isinstance(command, ev.Route):
                out.extend(machine.routed(answer) if isinstance(answer, Mutation) else machine.refused(NoEndpoints("none")))
    return out


def cut(body: bytes, at: Iterable[int]) -> list[bytes]:
    """Cut `body` at the given places."""
    places = sorted({place % (len(body) + 1) for place in at})
    return [body[a:b] for a, b in zip([0, *places], [*places, len(body)], strict=True)]


def sent(commands: Sequence[ev.Command]) -> bytes:
    """Join the body pieces that go on to the model server."""
    return b"".join(command.data for command in commands if isinstance(command, ev.RequestBodyReply))


CUTS = st.lists(st.integers(min_value=0), max_size=8)


@given(body=st.binary(max_size=300_000), at=CUTS, trailers=st.booleans(), again=st.booleans())
def test_any_cut_of_the_body_gives_the_same_bytes_in_the_one_right_order(
    body: bytes, at: list[int], trailers: bool, again: bool
) -> None:
    """However the body is cut, one Route sees it whole, and headers, pieces and end go out once and in order."""
    pieces = cut(body, at)
    said: list[ev.Event] = [POST]
    said += [ev.RequestBody(piece, not trailers and i == len(pieces) - 1) for i, piece in enumerate(pieces)]
    if trailers:
        said.append(ev.RequestTrailers())
    elif again:
        said.append(ev.RequestBody(pieces[-1], end_of_stream=True))
    out = converse(Machine(10**9), said)
    routes = [command for command in out if isinstance(command, ev.Route)]
    assert [(route.body, route.trailers) for route in routes] == [(body, trailers)]
    assert sent(out) == body
    kinds = [type(command) for command in out]
    assert kinds[:2] == [ev.Route, ev.RequestHeadersReply]
    replies = [command for command in out if isinstance(command, ev.RequestBodyReply)]
    assert all(len(reply.data) <= MAX_PIECE for reply in replies)
    assert [reply.end_of_stream for reply in replies] == [False] * (len(replies) - 1) + [not trailers] * bool(replies)
    if trailers:
        assert kinds[-1] is ev.RequestTrailersReply
    else:
        assert replies, "the end of the body must be sent even when it is empty"


def test_nothing_is_said_before_the_body_is_complete() -> None:
    """The reply to the headers is withheld while the body is coming."""
    machine = Machine(1000)
    assert list(machine.receive(POST)) == []
    assert list(machine.receive(ev.RequestBody(b"{"))) == []
    assert machine.state is State.BODY


def test_a_request_without_a_body_is_decided_on_its_headers() -> None:
    """A GET is answered with one headers reply."""
    out = converse(Machine(10), [ev.RequestHeaders({":method": "GET"}, end_of_stream=True)])
    assert out == [ev.Route({":method": "GET"}, None, None), ev.RequestHeadersReply(MUTATION)]


def test_buffered_answers_headers_first_and_decides_on_the_body() -> None:
    """In BUFFERED mode the decision rides on the body's reply and the body stays with Envoy."""
    opening = ev.RequestHeaders({}, request_mode=BodyMode.BUFFERED, response_mode=BodyMode.NONE)
    out = converse(Machine(100), [opening, ev.RequestBody(b"{}", end_of_stream=True), ev.RequestTrailers()])
    assert out == [
        ev.RequestHeadersReply(), ev.Route({}, b"{}", None), ev.BufferedRequestReply(MUTATION), ev.RequestTrailersReply(),
    ]  # fmt: skip


@pytest.mark.parametrize("mode", [BodyMode.NONE, BodyMode.STREAMED, BodyMode.BUFFERED_PARTIAL, BodyMode.GRPC])
def test_modes_that_cannot_route_by_body_are_refused_by_name(mode: BodyMode) -> None:
    """A mode in which headers go on before the body is known gets an answer that names the mode."""
    (reply,) = converse(Machine(100), [ev.RequestHeaders({}, request_mode=mode)])
    assert isinstance(reply, ev.ImmediateReply)
    assert reply.status == 500
    assert mode.name.encode() in reply.body


@given(at=st.lists(st.integers(min_value=0), max_size=5), limit=st.integers(min_value=0, max_value=99))
def test_a_body_over_the_limit_is_refused_once_and_never_gathered(at: list[int], limit: int) -> None:
    """The limit holds for any cut, nothing else is said, and what still comes is ignored."""
    machine = Machine(limit)
    pieces = cut(bytes(100), at)
    said: list[ev.Event] = [POST, *(ev.RequestBody(piece, i == len(pieces) - 1) for i, piece in enumerate(pieces))]
    (reply,) = converse(machine, said)
    assert isinstance(reply, ev.ImmediateReply)
    assert reply.status == 413
    assert machine._pieces == []


MODES = st.sampled_from([None, *BodyMode])
EVENTS = st.one_of(
    st.builds(lambda end, mode: ev.RequestHeaders({}, end, mode), st.booleans(), MODES),
    st.builds(ev.RequestBody, st.binary(max_size=40), st.booleans()),
    st.builds(ev.RequestTrailers),
    st.builds(ev.ResponseHeaders, st.just({}), st.booleans()),
    st.builds(ev.ResponseBody, st.binary(max_size=40), st.booleans()),
    st.builds(ev.ResponseTrailers),
)


@given(
    conversations=st.lists(
        st.tuples(st.lists(EVENTS, max_size=8).map(lambda said: [POST, *said]), st.booleans(), st.booleans()), max_size=5
    ),
    limit=st.integers(min_value=0, max_value=400),
)
def test_whatever_is_said_the_budget_is_kept_and_given_back(
    conversations: list[tuple[list[ev.Event], bool, bool]], limit: int
) -> None:
    """Any events in any order, routed or refused, answered or left: never over the limit, and nothing held in the end."""
    budget = Budget(limit)
    machines = []
    for said, routes, closes in conversations:
        machine = Machine(60, budget)
        converse(machine, said, MUTATION if routes else NoEndpoints("none"))
        assert 0 <= budget.used <= limit
        if closes:
            machine.close()
        machines.append(machine)
    for machine in machines:
        machine.close()
        assert not [*machine.receive(POST), *machine.receive(ev.RequestBody(b"late"))]
    assert budget.used == 0


def test_a_body_is_held_from_its_first_piece_until_its_answer_begins() -> None:
    """Each piece counts with what it costs beside its bytes; joined they are one body, which plugins may still read."""
    budget = Budget(1000)
    machine = Machine(100, budget)
    converse(machine, [POST, ev.RequestBody(b"12345"), ev.RequestBody(b"")])
    assert budget.used == 5 + PIECE_OVERHEAD
    converse(machine, [ev.RequestBody(b"678", end_of_stream=True)])
    assert budget.used == 8
    converse(machine, [ev.ResponseHeaders({":status": "200"})])
    assert budget.used == 0


def test_a_body_without_room_is_refused_with_503_and_takes_nothing() -> None:
    """The newest stream yields; what it held is free for the others at once."""
    budget = Budget(100)
    assert budget.take(20)
    machine = Machine(1000, budget)
    out = converse(machine, [POST, ev.RequestBody(b"x"), ev.RequestBody(b"y" * 10, end_of_stream=True)])
    (reply,) = out
    assert isinstance(reply, ev.ImmediateReply)
    assert reply.status == 503
    assert reply.headers["retry-after"] == b"1"
    assert reply.headers["x-llm-d-request-dropped-reason"] == b"rejected-saturated"
    assert budget.used == 20


def test_a_declared_length_over_the_limit_is_refused_before_the_body() -> None:
    """The content-length header is enough to refuse."""
    (reply,) = converse(Machine(10), [ev.RequestHeaders({"content-length": "11"})])
    assert isinstance(reply, ev.ImmediateReply)
    assert reply.status == 413


def test_a_refusal_is_json_with_status_reason_and_retry_after() -> None:
    """The client learns why, in OpenAI's error form."""
    out = converse(Machine(10), [POST, ev.RequestBody(b"", end_of_stream=True)], NoEndpoints("none"))
    assert out[-1] == ev.ImmediateReply(
        503,
        {"content-type": b"application/json", "x-llm-d-request-dropped-reason": b"rejected-no-endpoints", "retry-after": b"1"},
        NoEndpoints("none").body(),
        "epp:rejected-no-endpoints",
    )


@given(body=st.binary(max_size=200_000), at=CUTS, trailers=st.booleans())
def test_an_answer_in_duplex_passes_byte_for_byte(body: bytes, at: list[int], trailers: bool) -> None:
    """Each message of the answer is replied to at once with the same bytes, and its end is noticed exactly once."""
    pieces = cut(body, at)
    said: list[ev.Event] = [ev.RequestHeaders({}, end_of_stream=True), ev.ResponseHeaders({":status": "200"})]
    said += [ev.ResponseBody(piece, not trailers and i == len(pieces) - 1) for i, piece in enumerate(pieces)]
    if trailers:
        said.append(ev.ResponseTrailers())
    out = converse(Machine(10), said)
    replies = [command for command in out if isinstance(command, ev.ResponseBodyReply)]
    assert b"".join(reply.data or b"" for reply in replies) == body
    assert sum(reply.end_of_stream for reply in replies) == (not trailers)
    assert sum(isinstance(command, ev.AnswerEnded) for command in out) == 1
    assert b"".join(command.data for command in out if isinstance(command, ev.AnswerPassed)) == body


def test_an_answer_whose_bytes_stay_with_envoy_gets_no_bytes_back() -> None:
    """Outside duplex a body message is only waved on."""
    opening = ev.RequestHeaders({}, end_of_stream=True, response_mode=BodyMode.STREAMED)
    out = converse(Machine(10), [opening, ev.ResponseHeaders({}), ev.ResponseBody(b"data", end_of_stream=True)])
    assert ev.ResponseBodyReply(None, end_of_stream=True) in out


@given(
    st.lists(
        st.sampled_from([
            POST, ev.RequestBody(b"x"), ev.RequestBody(b"", end_of_stream=True), ev.RequestTrailers(), ev.ResponseHeaders({}),
            ev.ResponseBody(b"y"), ev.ResponseBody(b"", end_of_stream=True), ev.ResponseTrailers(),
        ]),
        max_size=12,
    )
)  # fmt: skip
def test_no_sequence_of_messages_breaks_it(said: list[ev.Event]) -> None:
    """Whatever Envoy sends, there is at most one Route, and no request piece goes out before the headers reply."""
    out = converse(Machine(100), said)
    kinds = [type(command) for command in out]
    assert kinds.count(ev.Route) <= 1
    if ev.RequestBodyReply in kinds:
        assert kinds.index(ev.RequestHeadersReply) < kinds.index(ev.RequestBodyReply)
