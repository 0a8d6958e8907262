"""The loop around the machine: whole conversations in memory, cut off at every point."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from epp.extproc.service import ExternalProcessor
from epp.feedback.registry import Exchanges
from epp.methods import RpcError
from epp.pb.ext_proc_pb2 import BodySendMode, ProcessingRequest, ProcessingResponse
from epp.requests.passthrough import PassthroughParser
from tests.router_world import World, chat

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from epp.api import Outcome
    from epp.telemetry import RequestLabels

DESTINATION = "x-gateway-destination-endpoint"


def headers(message: Any, **values: str) -> None:
    """Fill a HeaderMap."""
    for key, value in values.items():
        message.headers.headers.add(key=key, raw_value=value.encode())


def conversation(body: bytes, *, sse: bool = False) -> list[bytes]:
    """Write a whole duplex exchange as Envoy sends it."""
    opening = ProcessingRequest()
    headers(opening.request_headers, **{":method": "POST", ":path": "/v1/chat/completions", "x-request-id": "r"})
    opening.protocol_config.request_body_mode = BodySendMode.FULL_DUPLEX_STREAMED
    opening.protocol_config.response_body_mode = BodySendMode.FULL_DUPLEX_STREAMED
    middle, end = ProcessingRequest(), ProcessingRequest()
    middle.request_body.body = body[:10]
    end.request_body.body = body[10:]
    end.request_body.end_of_stream = True
    began = ProcessingRequest()
    headers(began.response_headers, **{":status": "200", "content-type": "text/event-stream" if sse else "application/json"})
    usage = b'{"usage": {"prompt_tokens": 7, "completion_tokens": 3}}'
    answer = [b"data: " + usage[:9], usage[9:] + b"\n\n", b"data: [DONE]\n\n"] if sse else [usage[:9], usage[9:]]
    pieces = []
    for number, piece in enumerate(answer, 1):
        message = ProcessingRequest()
        message.response_body.body = piece
        message.response_body.end_of_stream = number == len(answer)
        pieces.append(message)
    return [message.SerializeToString() for message in (opening, middle, end, began, *pieces)]


class Service:
    """An ext_proc service over the router's test world."""

    def __init__(self, *, max_buffered: int = 1 << 30, **options: Any) -> None:
        """Put it together."""
        self.world = World(**options)
        self.outcomes: list[Any] = []
        heard = self.world.heard
        heard.request_finished = self._finished  # type: ignore[method-assign]
        self.exchanges = Exchanges(
            pool=self.world.pool, telemetry=heard, clock=lambda: 0.0, random=random.Random(1), first_token=(), finished=()
        )
        self.ext_proc = ExternalProcessor(
            router=self.world.router, parsers=self.world.router._parsers, exchanges=self.exchanges, telemetry=heard,
            clock=lambda: 0.0, max_body=10_000, max_buffered=max_buffered,
        )  # fmt: skip

    def _finished(self, labels: RequestLabels, outcome: Outcome, *, streaming: bool, prompt_tokens: int) -> None:
        self.outcomes.append(outcome)

    async def talk(self, messages: Sequence[bytes], metadata: Mapping[str, str] | None = None) -> list[ProcessingResponse]:
        """Play `messages` and then half-close."""

        async def requests() -> AsyncIterator[bytes]:
            for message in messages:
                yield message

        return [ProcessingResponse.FromString(r) async for r in self.ext_proc.process(requests(), metadata or {})]


async def test_a_whole_exchange_in_duplex_ends_with_usage_and_nothing_in_flight() -> None:
    """Header and metadata agree, the metadata names the lease, usage is read from the passing answer."""
    for sse in (False, True):
        service = Service()
        body = chat(stream=sse)
        replies = await service.talk(conversation(body, sse=sse))
        first = replies[0].request_headers.response
        assert first.clear_route_cache
        options = {option.header.key: option.header for option in first.header_mutation.set_headers}
        fields = replies[0].dynamic_metadata.fields["envoy.lb"].struct_value.fields
        assert fields[DESTINATION].string_value == options[DESTINATION].raw_value.decode()
        assert fields["x-epp-lease"].string_value
        assert all(not option.value for option in options.values()), "raw_value only"
        sent = [r.request_body.response.body_mutation.streamed_response for r in replies if r.HasField("request_body")]
        assert b"".join(piece.body for piece in sent) == body
        assert sent[-1].end_of_stream
        (outcome,) = service.outcomes
        assert (outcome.usage.prompt_tokens, outcome.usage.completion_tokens) == (7, 3)
        assert outcome.status == 200
        assert service.world.inflight == 0


@given(st.integers(min_value=0, max_value=7), st.booleans(), st.booleans())
async def test_a_stream_cut_anywhere_leaves_nothing_in_flight(length: int, sse: bool, read_all: bool) -> None:
    """After any exchange, complete or not, read to the end or closed early, every lease is over."""
    service = Service()

    async def requests() -> AsyncIterator[bytes]:
        for message in conversation(chat(stream=sse), sse=sse)[:length]:
            yield message

    stream = service.ext_proc.process(requests(), {})
    async for _ in stream:
        if not read_all:
            break
    await stream.aclose()  # type: ignore[attr-defined]
    assert service.world.inflight == 0
    assert len(service.exchanges) == 0
    assert service.ext_proc.streams == 0
    assert service.ext_proc.budget.used == 0
    assert len(service.outcomes) == (length >= 3)


async def test_a_request_ended_by_trailers_is_marked_for_the_proxy() -> None:
    """Envoy must know, since it sends the body of such a request twice on a route with retries; others are not marked."""
    opening, first, last, *_ = conversation(chat())
    end = ProcessingRequest()
    end.request_trailers.SetInParent()
    for said, marked in (([opening, first, last], False), ([opening, first, end.SerializeToString()], True)):
        replies = await Service(parsers=[PassthroughParser()]).talk(said)
        fields = replies[0].dynamic_metadata.fields["envoy.lb"].struct_value.fields
        assert (fields["x-epp-trailers"].string_value == "true") is marked


async def test_an_announced_access_log_keeps_the_lease_of_a_released_stream() -> None:
    """The stream is over after the request phase; the exchange waits for its entry, counted."""
    service = Service()
    await service.talk(conversation(chat())[:3], {"x-epp-completion": "access-log", "x-epp-node": "n"})
    assert service.world.inflight == 1
    assert service.exchanges.waiting == 1
    service.exchanges.close()
    assert service.world.inflight == 0


async def test_a_refusal_is_the_last_word() -> None:
    """After an immediate answer nothing else is said, whatever still comes."""
    service = Service()
    (reply,) = await service.talk(conversation(b"not json at all"))
    assert reply.immediate_response.status.code == 400
    assert service.world.inflight == 0


async def test_a_body_over_the_limit_is_refused_and_counted() -> None:
    """What the machine refuses is counted like what the router refuses."""
    service = Service()
    (reply,) = await service.talk(conversation(b"x" * 20_000))
    assert reply.immediate_response.status.code == 413
    assert service.world.heard.rejected == [(413, None)]


async def test_bodies_of_all_streams_together_are_bounded() -> None:
    """Unfinished bodies are held up to the limit; the stream that goes over it is refused, and the others go on."""
    service = Service(max_buffered=25_000)
    body = chat(user="x" * 9_000)
    said = conversation(body)
    middle, end = ProcessingRequest(), ProcessingRequest()
    middle.request_body.body, end.request_body.body, end.request_body.end_of_stream = body[:-1], body[-1:], True
    waiting, started = asyncio.Event(), asyncio.Semaphore(0)

    async def unfinished() -> AsyncIterator[bytes]:
        yield said[0]
        yield middle.SerializeToString()
        started.release()
        await waiting.wait()
        yield end.SerializeToString()

    async def exchange() -> list[bytes]:
        return [reply async for reply in service.ext_proc.process(unfinished(), {})]

    async with asyncio.TaskGroup() as group:
        streams = [group.create_task(exchange()) for _ in range(2)]
        for _ in streams:
            await started.acquire()
        used = service.ext_proc.budget.used
        assert 2 * len(body) < used < 25_000
        with capture_logs() as logs:
            for _ in range(2):
                (reply,) = await service.talk(said)
        assert service.ext_proc.budget.used == used
        waiting.set()
    refused = reply.immediate_response
    told = {option.header.key: option.header.raw_value for option in refused.headers.set_headers}
    assert refused.status.code == 503
    assert told["retry-after"] == b"1"
    assert told["x-llm-d-request-dropped-reason"] == b"rejected-saturated"
    assert b"25000 bytes, --max-buffered-bytes" in refused.body
    assert service.world.heard.rejected == [(503, "rejected-saturated")] * 2
    assert [(line["log_level"], line["event"]) for line in logs] == [("warning", "requests refused, too many bodies at once")]
    for stream in streams:
        assert ProcessingResponse.FromString(stream.result()[0]).HasField("request_headers")
    assert service.ext_proc.budget.used == 0
    assert (await service.talk(said))[0].HasField("request_headers")


async def test_a_cancelled_stream_gives_its_share_back() -> None:
    """Envoy resets streams at any time, also while their bodies come."""
    service = Service()
    waiting = asyncio.Event()

    async def unfinished() -> AsyncIterator[bytes]:
        for message in conversation(chat())[:2]:
            yield message
        waiting.set()
        await asyncio.Event().wait()

    async def exchange() -> None:
        async for _ in service.ext_proc.process(unfinished(), {}):
            pass

    task = asyncio.ensure_future(exchange())
    await waiting.wait()
    assert service.ext_proc.budget.used > 0
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert service.ext_proc.budget.used == 0


@pytest.mark.parametrize("error", [SystemExit(0), asyncio.CancelledError()])
async def test_a_parser_that_would_end_the_picker_fails_only_its_requests(error: BaseException) -> None:
    """What is raised while a request is read answers it, and what is raised while usage is read costs the usage only."""

    class Odd(PassthroughParser):
        def parse(self, *_arguments: Any) -> Any:
            raise error

    class Blind(PassthroughParser):
        def usage(self, _content_type: str) -> Any:
            raise error

    replies = await Service(parsers=[Odd()]).talk(conversation(chat()))
    assert replies, "answered, whether routed or refused"
    blind = Service(parsers=[Blind()])
    with capture_logs() as logs:
        replies = await blind.talk(conversation(chat()))
    assert b"".join(r.response_body.response.body_mutation.streamed_response.body for r in replies)
    assert [line["event"] for line in logs] == ["no usage reader"]
    (outcome,) = blind.outcomes
    assert outcome.usage.prompt_tokens is None


async def test_a_router_that_fails_altogether_answers_500_and_never_a_grpc_error() -> None:
    """The last net: an exception becomes an answer with a reason, and a fault that is counted."""
    service = Service()
    service.world.router._pool = None  # type: ignore[assignment]
    (reply,) = await service.talk(conversation(chat()))
    assert reply.immediate_response.status.code == 500
    assert service.world.heard.faults == ["route"]


async def test_bytes_that_are_no_message_end_the_stream_with_invalid_argument() -> None:
    """Only a caller that is not Envoy gets a gRPC error."""
    with pytest.raises(RpcError) as told:
        await Service().talk([b"\xff\xff\xff"])
    assert told.value.code == 3


async def test_unknown_kinds_of_messages_are_ignored() -> None:
    """A message of a kind this picker does not know changes nothing."""
    messages = conversation(chat())
    assert len(await Service().talk([b"", *messages])) == len(await Service().talk(messages))
