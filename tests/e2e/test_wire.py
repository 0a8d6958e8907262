"""The wire, driven directly: what a data plane may send, in whatever order it comes to it, and what the picker answers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
import pytest_asyncio
from envoy_data_plane.envoy.service.ext_proc.v3 import HttpBody, HttpHeaders
from envoy_data_plane.envoy.service.ext_proc.v3 import ProcessingRequest as Request
from grpc import aio

from epp.simulator.options import SimulatorOptions
from epp.simulator.server import serve
from tests.e2e.wire import Alone, BodyMode, Channel, chat, destination, header_map, picker, refusal, streamed

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def servers() -> AsyncIterator[list[str]]:
    """Run two servers to be scraped; no request of the wire ever reaches one."""
    async with serve(SimulatorOptions(instant=True)) as one, serve(SimulatorOptions(instant=True)) as two:
        yield [f"127.0.0.1:{server.port}" for server in (one, two)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def alone(servers: list[str]) -> AsyncIterator[Alone]:
    """Run one picker for all tests: what they count are differences."""
    async with picker(f"--endpoints={','.join(servers)}") as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def channel(alone: Alone) -> AsyncIterator[Channel]:
    """Connect to its gRPC port; nothing may be left of the test."""
    async with Channel(alone.ports["grpc"]) as connected:
        yield connected
        await alone.idle()


async def test_a_duplex_exchange_from_headers_to_the_end(alone: Alone, channel: Channel, servers: list[str]) -> None:
    """Nothing is answered before the body is complete; then headers and body in order; each answer event is answered."""
    before = await alone.metric("llm_d_epp_requests_finished_total", cause="natural")
    exchange = channel.exchange()
    body = chat(text="x" * 150_000)
    await exchange.headers(response_mode=BodyMode.FULL_DUPLEX_STREAMED)
    for start in range(0, len(body), 40_000):
        await exchange.body(body[start : start + 40_000], end=False)
    early = asyncio.ensure_future(exchange.reply())
    await asyncio.sleep(0.1)
    assert not early.done()
    await exchange.body(b"")
    assert destination(await early) in servers
    pieces = [streamed(await exchange.reply()) for _ in range(3)]
    assert b"".join(data for data, _ in pieces) == body
    assert [last for _, last in pieces] == [False, False, True]
    assert max(len(data) for data, _ in pieces) <= 62_000
    await exchange.answer_head("200")
    assert (await exchange.reply()).response_headers is not None
    for data, last in ((b"data: a\n\n", False), (b"data: [DONE]\n\n", True)):
        await exchange.answer_body(data, end=last)
        assert streamed(await exchange.reply()) == (data, last)
    await exchange.finish()
    assert await alone.metric("llm_d_epp_requests_finished_total", cause="natural") == before + 1


async def test_a_request_without_a_body_is_answered_at_once(servers: list[str], channel: Channel) -> None:
    """A GET gets its choice from the headers alone, within the subset that the gateway names, ports included."""
    exchange = channel.exchange()
    await exchange.headers(end=True, subset=[servers[1]])
    assert destination(await exchange.reply()) == servers[1]
    await exchange.finish()
    for subset in ([], ["127.0.0.1:9"]):
        exchange = channel.exchange()
        await exchange.headers(end=True, subset=subset)
        status, reason, _ = refusal(await exchange.reply())
        assert (status, reason) == (503, "rejected-no-endpoints")
        assert await exchange.read() is None


async def test_trailers_end_a_body(channel: Channel) -> None:
    """A body without a final piece is complete when trailers come: no piece is the last, and the trailers are answered."""
    exchange = channel.exchange()
    await exchange.headers()
    await exchange.body(chat(), end=False)
    await exchange.trailers()
    assert destination(await exchange.reply())
    assert streamed(await exchange.reply()) == (chat(), False)
    assert (await exchange.reply()).request_trailers is not None
    await exchange.finish()


async def test_a_repeated_final_piece_is_ignored(alone: Alone, channel: Channel) -> None:
    """Envoy may deliver the end of the body twice: the request is routed, counted and answered once."""
    before = await alone.metric("llm_d_epp_request_total")
    exchange = channel.exchange()
    await exchange.headers()
    await exchange.body(chat())
    await exchange.body(chat())
    await exchange.body(b"")
    assert destination(await exchange.reply())
    assert streamed(await exchange.reply()) == (chat(), True)
    assert await alone.inflight() == 1
    await exchange.finish()
    assert await alone.metric("llm_d_epp_request_total") == before + 1


async def test_buffered_bodies(channel: Channel, servers: list[str]) -> None:
    """In BUFFERED mode the headers are answered at once and the choice rides on the answer to the body."""
    exchange = channel.exchange()
    await exchange.headers(request_mode=BodyMode.BUFFERED)
    first = await exchange.reply()
    assert first.request_headers is not None
    assert first.dynamic_metadata is None
    await exchange.body(chat())
    reply = await exchange.reply()
    assert reply.request_body is not None
    assert destination(reply) in servers
    await exchange.finish()


@pytest.mark.parametrize("mode", [BodyMode.STREAMED, BodyMode.NONE, BodyMode.BUFFERED_PARTIAL])
async def test_a_body_mode_that_cannot_route_is_refused_and_logged(alone: Alone, channel: Channel, mode: BodyMode) -> None:
    """The client gets 500 at once, and the picker's log says which setting to change and to what."""
    before = await alone.metric("llm_d_epp_requests_rejected_total", code="500")
    for _ in range(3):
        exchange = channel.exchange()
        await exchange.headers(request_mode=mode)
        status, _, message = refusal(await exchange.reply())
        assert status == 500
        assert mode.name is not None
        assert mode.name in message
        assert await exchange.read() is None
    lines = alone.said("proxy must be configured otherwise")
    (line,) = [line for line in lines if f"request_body_mode {mode.name} " in line["error"]]
    assert line["level"] == "error"
    assert "FULL_DUPLEX_STREAMED" in line["error"]
    assert await alone.metric("llm_d_epp_requests_rejected_total", code="500") == before + 3


async def test_without_protocol_config_duplex_is_assumed(channel: Channel) -> None:
    """Data planes that do not tell their modes are served in the specification's own."""
    exchange = channel.exchange()
    await exchange.headers(request_mode=None)
    await exchange.body(chat())
    assert destination(await exchange.reply())
    assert streamed(await exchange.reply()) == (chat(), True)
    await exchange.finish()


async def test_a_stream_may_end_at_any_point(alone: Alone, channel: Channel) -> None:
    """Half-closed or cancelled before headers, after them, within the body, after the choice: nothing stays counted."""
    said = len(alone.child.entries)
    before = await alone.metric("llm_d_epp_request_total")
    for part in range(5):
        for cancel in (False, True):
            exchange = channel.exchange()
            if part >= 1:
                await exchange.headers(response_mode=BodyMode.FULL_DUPLEX_STREAMED)
            if part >= 2:
                await exchange.body(chat()[:10], end=False)
            if part >= 3:
                await exchange.body(chat()[10:])
                assert destination(await exchange.reply())
                assert streamed(await exchange.reply()) == (chat(), True)
            if part >= 4:
                await exchange.answer_head("200")
                assert (await exchange.reply()).response_headers is not None
            if cancel:
                exchange.cancel()
            else:
                await exchange.finish()
    assert await alone.metric("llm_d_epp_request_total") == before + 4
    assert not [entry for entry in list(alone.child.entries)[said:] if entry.get("level") == "error"]


async def test_garbage_is_refused_and_the_server_lives(alone: Alone, channel: Channel) -> None:
    """Bytes that are no ProcessingRequest end their stream with INVALID_ARGUMENT, and no other."""
    before = await alone.metric("llm_d_epp_extproc_streams_total", code="INVALID_ARGUMENT")
    other = channel.exchange()
    await other.headers()
    for garbage in (b"\xff\xff\xff\xff", b"\x0a\xff", b"\x12\x05ab"):
        exchange = channel.exchange()
        await exchange.call.write(garbage)
        assert await exchange.code() is grpc.StatusCode.INVALID_ARGUMENT
    unknown = channel.channel.stream_stream("/envoy.service.ext_proc.v3.ExternalProcessor/Nothing")()
    assert await unknown.code() is grpc.StatusCode.UNIMPLEMENTED
    await other.body(chat())
    assert destination(await other.reply())
    other.cancel()
    assert await alone.metric("llm_d_epp_extproc_streams_total", code="INVALID_ARGUMENT") == before + 3


async def test_messages_without_their_beginning_are_ignored(alone: Alone, channel: Channel) -> None:
    """A body, trailers or an answer on a stream that never had headers harm nobody; an empty message neither."""
    before = await alone.metric("llm_d_epp_request_total")
    exchange = channel.exchange()
    await exchange.send()
    await exchange.body(chat())
    await exchange.trailers()
    await exchange.answer_head("200")
    await exchange.finish()
    assert await alone.metric("llm_d_epp_request_total") == before


async def test_strange_headers_do_not_break_routing(channel: Channel, servers: list[str]) -> None:
    """Header values that are not UTF-8, are long or look like addresses are carried, not trusted."""
    exchange = channel.exchange()
    await exchange.headers(
        x_request_id="\udcff".encode("utf-8", "surrogateescape").decode("latin-1") * 5000,
        content_length="99999999999999999999999",
        x_gateway_destination_endpoint="6.6.6.6:1",
    )
    status, _, message = refusal(await exchange.reply())
    assert status == 413
    assert "--max-body-bytes" in message
    exchange = channel.exchange()
    await exchange.headers(x_gateway_destination_endpoint="6.6.6.6:1", content_length="-5")
    await exchange.body(chat())
    assert destination(await exchange.reply()) in servers
    exchange.cancel()


BROKEN = """
from epp.api import Parameters


class BrokenScorer:
    def score(self, request, pool):
        raise RuntimeError("score")


class BrokenPicker:
    def pick(self, request, pool, totals):
        raise RuntimeError("pick")


class BrokenHandler:
    def profiles(self, request, profiles, done):
        raise RuntimeError("profiles")

    def primary(self, request, done):
        raise RuntimeError("primary")


class BrokenProducer:
    def produce(self, request, pool):
        raise RuntimeError("produce")

    def finished(self, request, outcome):
        raise RuntimeError("finished")
"""

BROKEN_CONFIG = """
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
  - type: ./broken.py:BrokenScorer
    name: scorer
  - type: ./broken.py:BrokenPicker
    name: picker
  - type: ./broken.py:BrokenHandler
    name: handler
  - type: ./broken.py:BrokenProducer
    name: producer
schedulingProfiles:
  - name: default
    plugins:
      - pluginRef: scorer
      - pluginRef: picker
"""


async def test_plugins_that_always_raise_lose_no_request(servers: list[str], tmp_path: Path) -> None:
    """With every kind of plugin broken requests go to the least in flight; each failure is counted, and logged once."""
    (tmp_path / "broken.py").write_text(BROKEN)
    endpoints = f"--endpoints={','.join(servers)}"
    async with picker(endpoints, config=BROKEN_CONFIG, directory=tmp_path) as alone, Channel(alone.ports["grpc"]) as channel:
        held = [channel.exchange() for _ in range(6)]
        chosen = [await exchange.routed(chat(text="secret words")) for exchange in held]
        assert [chosen.count(server) for server in servers] == [3, 3]
        for exchange in held:
            await exchange.finish()
        await alone.idle()
        for point in ("Scorer", "Picker", "ProfilePicker", "ProcessProfilesResults", "Producer", "Finished"):
            assert await alone.metric("llm_d_epp_plugin_failures_total", extension_point=point) == 6, point
        assert len(alone.said("plugin failed")) == 6
        assert "secret words" not in str(list(alone.child.entries))


async def test_a_thousand_streams_at_once(alone: Alone, channel: Channel, servers: list[str]) -> None:
    """A thousand requests held open are spread evenly over equal endpoints, and all are given back."""
    before = await alone.metric("llm_d_epp_request_total")
    exchanges = [channel.exchange() for _ in range(1000)]
    chosen = await asyncio.gather(
        *(exchange.routed(chat(text=f"{number} {'y' * 50}")) for number, exchange in enumerate(exchanges))
    )
    rows = {row["endpoint"]: row["leases"] for row in (await alone.state("/api/pool"))["endpoints"]}
    assert sum(rows.values()) == 1000
    assert rows == {server: chosen.count(server) for server in servers}
    for number, exchange in enumerate(exchanges):
        if number % 2:
            exchange.cancel()
        else:
            await exchange.half_close()
    assert await alone.metric("llm_d_epp_request_total") == before + 1000


def resident(pid: int) -> float:
    """Give a process's memory in MB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory of another process is read from /proc")
async def test_clients_that_invent_model_names_cost_nothing_lasting(alone: Alone, channel: Channel) -> None:
    """Of ever new model names a thousand are told apart, the rest are `other`; memory does not grow with their number."""
    before = await alone.metric("llm_d_epp_request_total")
    numbers = iter(range(2500))
    memory: list[float] = []
    head = bytes(Request(request_headers=HttpHeaders(headers=header_map({":method": "POST", ":path": "/v1/chat/completions"}))))
    body = bytes(Request(request_body=HttpBody(body=chat("invented-nnnnn"), end_of_stream=True)))

    async def client() -> None:
        for number in numbers:
            call = channel.exchange().call
            await call.write(head)
            await call.write(body.replace(b"nnnnn", b"%05d" % number))
            await call.done_writing()
            replies = [await call.read() for _ in range(3)]
            assert replies[2] is aio.EOF  # type: ignore[attr-defined]
            if number == 1200:
                memory.append(resident(alone.child.process.pid))

    await asyncio.gather(*(client() for _ in range(50)))
    memory.append(resident(alone.child.process.pid))
    assert memory[1] - memory[0] < 10
    samples = await alone.samples("llm_d_epp_request_total")
    names = {labels["model_name"] for labels, _ in samples}
    assert "other" in names
    assert len(names - {""}) <= 1001
    assert sum(value for _, value in samples) == before + 2500
