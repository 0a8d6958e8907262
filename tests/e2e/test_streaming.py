"""Answers reach the client as they are produced and as they are, in every mode.

A model server here sends its next piece only when the client says that it has the one before: whoever holds a piece back
stops the exchange for good, so no test needs a stopwatch.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import statistics
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from epp.simulator.options import SimulatorOptions
from tests.e2e.stack import Stack, free_port, stack

MODES = ("held", "released", "duplex", "buffered")
CHAT = "/v1/chat/completions"
SSE = "text/event-stream"
METRICS = "vllm:num_requests_waiting 0\nvllm:num_requests_running 0\nvllm:kv_cache_usage_perc 0\n"

#: Events as servers send them and as they should not: cut within a line, within a character, with comments, long, not JSON.
ODD = (
    b'data: {"choices": [{"delta": {"content": "h"}}]}\n\n',
    b'data: {"choices": [{"del',
    b'ta": {"content": "\xc3',
    b'\xa9"}}]}\n',
    b"\n",
    b": keep-alive\r\n\r\n",
    b"data: no JSON at all\n\n",
    b"event: response.completed\ndata: " + b"x" * 150_000 + b"\n\n",
    b"\x00\xff\xfe\r\r\n",
    b'data: {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}}\n\n',
    b"data: [DONE]\n\n",
    b"and no blank line at the end",
)


class StepByStep:
    """A model server that sends `pieces`, each only after `go` was told once more."""

    def __init__(self, pieces: Sequence[bytes] = (), content_type: str = SSE) -> None:
        """Take what to send; both may be changed between requests."""
        self.pieces, self.content_type = pieces, content_type
        self.go = asyncio.Semaphore(0)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Send the head at once, then the pieces in step."""
        await request.read()
        response = web.StreamResponse(status=200, headers={"content-type": self.content_type, "x-server": "step by step"})
        await response.prepare(request)
        for piece in self.pieces:
            await self.go.acquire()
            await response.write(piece)
        await response.write_eof()
        return response

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        """Serve for a block; gives the base URL."""

        async def metrics(_request: web.Request) -> web.Response:
            return web.Response(text=METRICS)

        application = web.Application()
        application.add_routes([web.get("/metrics", metrics), web.post(CHAT, self.answer)])
        runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        port = free_port()
        try:
            await web.TCPSite(runner, "127.0.0.1", port).start()
            yield f"http://127.0.0.1:{port}"
        finally:
            await runner.cleanup()


def chat(**fields: object) -> bytes:
    """Write a streaming chat request."""
    body = {"model": "simulated-model", "messages": [{"role": "user", "content": "tell me"}], "stream": True, **fields}
    return json.dumps(body).encode()


async def in_step(session: aiohttp.ClientSession, url: str, server: StepByStep) -> tuple[dict[str, str], bytes]:
    """Ask `url`, telling the server to go on whenever all that it has sent is here; give the head and the bytes."""
    got = bytearray()
    async with (
        asyncio.timeout(20),
        session.post(f"{url}{CHAT}", data=chat(), headers={"content-type": "application/json"}) as answer,
    ):
        assert answer.status == 200  # the head is here before the first piece was sent
        due = 0
        for piece in server.pieces:
            server.go.release()
            due += len(piece)
            while len(got) < due:
                more = await answer.content.readany()
                assert more, "the answer ended early"
                got += more
        assert await answer.content.read() == b""
        head = {name.lower(): value for name, value in answer.headers.items()}
    return head, bytes(got)


async def messages(running: Stack) -> float:
    """Tell how many messages Envoy has sent to the picker over ext_proc."""
    async with running.session.get(f"{running.envoy.admin_url}/stats?filter=ext_proc.stream_msgs_sent&format=json") as answer:
        (found,) = (await answer.json())["stats"]
    return float(found["value"])


@pytest.mark.parametrize("mode", MODES)
async def test_each_piece_arrives_before_the_next_is_sent_and_none_is_changed(mode: str) -> None:
    """Head and pieces pass one by one, and the client has what a direct request gives, byte for byte."""
    server = StepByStep(ODD)
    async with server.listening() as url, stack(0, mode=mode, endpoints=False, arguments=[f"--endpoints={url}"]) as running:
        for server.content_type in (SSE, f"{SSE}; charset=utf-8", "audio/mpeg", "application/x-ndjson"):
            direct_head, direct = await in_step(running.session, url, server)
            head, through = await in_step(running.session, running.url, server)
            assert through == direct == b"".join(ODD)
            for name in ("content-type", "x-server", "transfer-encoding"):
                assert head[name] == direct_head[name]

        async def idle() -> bool:
            return not any((await running.inflight()).values())

        await running.until(idle)


@pytest.mark.parametrize("mode", MODES)
async def test_no_byte_of_the_answer_passes_through_the_picker_unless_the_mode_says_so(mode: str) -> None:
    """Envoy sends the picker as many messages for a long answer as for a short one; in duplex one a piece."""
    async with stack(1, mode=mode) as running:
        sent = []
        for length in (2, 40):
            before = await messages(running)
            answer = await running.chat(stream=True, max_tokens=length)
            assert answer.body.count(b'"content":') >= length
            sent.append(await messages(running) - before)
        if mode == "duplex":
            assert sent[1] > sent[0] + 20
        else:
            assert sent[0] == sent[1] <= 4

        async def counted() -> bool:
            return await running.metric("llm_d_epp_request_duration_seconds_count") == 2

        await running.until(counted)


@pytest.mark.parametrize("mode", ["held", "duplex"])
async def test_a_large_answer_that_is_no_stream_arrives_unchanged(mode: str) -> None:
    """3 MB of JSON and of anything else; Envoy may hold the JSON to read its usage, but does not change it."""
    document = json.dumps({"data": ["é" * 100] * 10_000, "usage": {"prompt_tokens": 3}}, ensure_ascii=False).encode()
    server = StepByStep()
    async with server.listening() as url, stack(0, mode=mode, endpoints=False, arguments=[f"--endpoints={url}"]) as running:
        for kind, body in (("application/json", document), ("application/octet-stream", bytes(range(256)) * 12_000)):
            server.content_type, server.pieces = kind, [body[at : at + 100_000] for at in range(0, len(body), 100_000)]
            for _ in server.pieces:
                server.go.release()
            answer = await running.request("POST", CHAT, chat())
            assert (answer.status, answer.headers["content-type"]) == (200, kind)
            assert answer.body == body


async def timed(session: aiohttp.ClientSession, url: str) -> list[float]:
    """Ask for a streamed answer; give the seconds until its first byte, and between its pieces."""
    times = [time.perf_counter()]
    head = {"content-type": "application/json"}
    async with session.post(f"{url}{CHAT}", data=chat(max_tokens=4), headers=head) as answer:
        assert answer.status == 200
        times += [time.perf_counter() async for _ in answer.content.iter_any()]
    return [after - before for before, after in itertools.pairwise(times)]


async def test_what_the_first_token_waits_for_is_measured(record_property: Callable[[str, object], None]) -> None:
    """The added delay of the first token is printed beside a direct request's; checked is only that pieces come one by one."""
    options = SimulatorOptions(ttft_ms=20, itl_ms=50)
    for mode in MODES:
        async with stack([options], mode=mode) as running:
            found = {"direct": running.servers[0].url, mode: running.url}
            rounds = {name: [await timed(running.session, url) for _ in range(4)] for name, url in found.items()}
            first = {name: statistics.median(gaps[0] for gaps in rounds[name][1:]) * 1e3 for name in found}
            between = {name: statistics.median(gap for gaps in rounds[name] for gap in gaps[1:]) * 1e3 for name in found}
            added = first[mode] - first["direct"]
            text = f"{mode}: first byte {first[mode]:.1f} ms, direct {first['direct']:.1f} ms: +{added:.1f} ms"
            text += f"; between pieces {between[mode]:.1f} ms, direct {between['direct']:.1f} ms"
            record_property(f"first token, {mode}", text)
            print(text)  # noqa: T201 - the figure is what this is run for
            assert max(len(gaps) for gaps in rounds[mode]) >= 4  # a stalled machine may join some
