"""Bodies of every size and shape arrive as they were sent, or are refused clearly."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import random
from collections.abc import AsyncIterator, Iterable

import h2.connection
import h2.events
import pytest

from epp.simulator.options import SimulatorOptions
from epp.simulator.server import SimulatedServer
from tests.e2e.stack import Stack, stack

QUICK = SimulatorOptions(speed=50, num_blocks=200_000)
CHAT = "/v1/chat/completions"
DESTINATION = "x-gateway-destination-endpoint"


def chat(text: str = "hello", **fields: object) -> bytes:
    """Write a chat request in an odd but valid way."""
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": 2, "model": "simulated-model", **fields}
    return b"\n" + json.dumps(body, indent=1, ensure_ascii=False).encode() + b" "


async def pieces(parts: Iterable[bytes]) -> AsyncIterator[bytes]:
    """Give `parts` one by one, each sent before the next: without a content-length they become chunks."""
    for part in parts:
        yield part
        await asyncio.sleep(0)


def received(servers: Iterable[SimulatedServer]) -> list[bytes]:
    """Give the bodies that reached the servers, and forget them."""
    bodies = [request.body for server in servers for request in server.requests]
    for server in servers:
        server.requests.clear()
    return bodies


@pytest.mark.parametrize("mode", ["held", "duplex", "buffered"])
async def test_a_body_arrives_byte_for_byte_however_it_is_cut(mode: str) -> None:
    """5 MB at once, in chunks, one byte at a time, cut within characters and escapes: what arrives is what was sent."""
    rng = random.Random(7)
    large = chat("".join(rng.choices('abc é\n"\\中€\U0001f600', k=2_900_000)))
    assert len(large) > 5_000_000
    small = chat('quotes " and \\ slashes, é中€\U0001f600 in it')
    cuts = [sorted(rng.sample(range(len(small) + 1), k=rng.randrange(1, 9))) for _ in range(10)]
    shapes = [
        [large],  # with a content-length; the others in chunks
        [large[at : at + 50_001] for at in range(0, len(large), 50_001)],
        [small[at : at + 1] for at in range(len(small))],
        *([small[a:b] for a, b in zip([0, *cut], [*cut, len(small)], strict=True)] for cut in cuts),
    ]
    async with stack([QUICK] * 2, mode=mode) as running:
        for shape in shapes:
            body = b"".join(shape)
            head = {"content-length": str(len(body))} if len(shape) == 1 else {}
            answer = await running.request("POST", CHAT, pieces(part for part in shape if part), head)
            assert answer.status == 200, answer.body
            (arrived,) = received(running.servers)
            assert hashlib.sha256(arrived).digest() == hashlib.sha256(body).digest()


async def test_the_destination_is_the_same_in_header_decision_and_fact() -> None:
    """What the server reads in x-gateway-destination-endpoint is its own address, and where the picker counted the request."""
    async with stack([QUICK] * 3) as running:
        for number in range(12):
            answer = await running.chat(f"question {number}")
            (server,) = [server for server in running.servers if server.requests]
            (request,) = server.requests
            server.requests.clear()
            (decision,) = (await running.state(f"/api/decisions?request_id={answer.request_id}"))["decisions"]
            assert request.headers[DESTINATION] == answer.served == decision["endpoint"] == f"127.0.0.1:{server.port}"
            assert request.headers["x-request-id"] == answer.request_id

        async def told() -> bool:
            return await running.metric("llm_d_epp_requests_finished_total", cause="natural") == 12

        await running.until(told)


def assert_too_large(status: int, body: bytes) -> None:
    """See that the client learns what happened, and which setting decides."""
    assert status == 413
    assert "--max-body-bytes" in json.loads(body)["error"]["message"]


async def test_a_body_over_the_limit_is_refused() -> None:
    """100 MB against the default limit of 64 MiB: 413 at once when the length is declared, else when the limit is passed."""
    block = b"x" * 1_000_000
    async with stack([QUICK]) as running:
        for head in ({"content-length": "100000000"}, {}):
            refused = await running.request("POST", CHAT, pieces([block] * 100), head)
            assert_too_large(refused.status, refused.body)
        assert not running.servers[0].requests
        assert (await running.chat()).status == 200
        assert await running.metric("llm_d_epp_requests_rejected_total", code="413") == 2


async def test_the_limit_can_be_set() -> None:
    """--max-body-bytes: a body of exactly so many bytes is served, one byte more is refused."""
    body = chat("x" * 2000)
    async with stack([QUICK], arguments=[f"--max-body-bytes={len(body)}"]) as running:
        assert (await running.request("POST", CHAT, body)).status == 200
        assert received(running.servers) == [body]
        refused = await running.request("POST", CHAT, body + b" ")
        assert_too_large(refused.status, refused.body)
        refused = await running.request("POST", CHAT, pieces([body, b" "]))
        assert_too_large(refused.status, refused.body)


async def test_requests_without_a_body_are_routed() -> None:
    """GET with its query, HEAD, OPTIONS and POST to what needs no body arrive as they were sent; the status is the server's."""
    async with stack([QUICK] * 2) as running:
        for method, path, status in (
            ("GET", "/v1/models?limit=2&q=%C3%A9", 200),
            ("HEAD", "/v1/models", 200),
            ("OPTIONS", CHAT, 405),
            ("DELETE", "/v1/responses/resp_1", 404),
            ("POST", "/reset_prefix_cache", 404),
        ):
            answer = await running.request(method, path, headers={"x-mine": "kept"})
            assert (method, answer.status) == (method, status)
            (request,) = [request for server in running.servers for request in server.requests]
            received(running.servers)
            assert (request.method, request.path, request.body) == (method, path, b"")
            assert request.headers["x-mine"] == "kept"
            assert request.headers[DESTINATION] == answer.served

        async def idle() -> bool:
            return not any((await running.inflight()).values())

        await running.until(idle)


async def test_a_compressed_body_is_refused_with_advice() -> None:
    """The model cannot be read from it: 400 names the header; the body is not taken for broken JSON."""
    async with stack([QUICK]) as running:
        for encoding in ("gzip", "GZIP", "br", "zstd"):
            refused = await running.request("POST", CHAT, gzip.compress(chat()), {"content-encoding": encoding})
            assert refused.status == 400
            assert "content-encoding" in refused.json()["error"]["message"]
        assert not running.servers[0].requests
        assert (await running.request("POST", CHAT, chat(), {"content-encoding": "identity"})).status == 200


class Http2:
    """One HTTP/2 connection, for what HTTP/1.1 clients do not send: trailers."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take the connection."""
        self.reader, self.writer = reader, writer
        self.h2 = h2.connection.H2Connection()
        self.h2.initiate_connection()

    async def post(self, path: str, parts: Iterable[bytes], trailers: dict[str, str]) -> tuple[int, bytes]:
        """Send a request that ends with `trailers`; give status and body."""
        stream = self.h2.get_next_available_stream_id()
        head = {":method": "POST", ":scheme": "http", ":authority": "test", ":path": path, "content-type": "application/json"}
        self.h2.send_headers(stream, list(head.items()))
        for part in parts:
            self.h2.send_data(stream, part)
            await self._flush()
        self.h2.send_headers(stream, list(trailers.items()), end_stream=True)
        await self._flush()
        return await self._answer(stream)

    async def _flush(self) -> None:
        self.writer.write(self.h2.data_to_send())
        await self.writer.drain()

    async def _answer(self, stream: int) -> tuple[int, bytes]:
        status, body = 0, b""
        while data := await self.reader.read(65_536):
            for event in self.h2.receive_data(data):
                match event:
                    case h2.events.ResponseReceived(headers=headers):
                        status = int(dict(headers)[b":status"])
                    case h2.events.DataReceived(data=more, flow_controlled_length=length):
                        body += more
                        self.h2.acknowledge_received_data(length, stream)
                    case h2.events.StreamEnded():
                        return status, body
                    case h2.events.StreamReset(error_code=code):
                        raise ConnectionResetError(code)
            await self._flush()
        raise ConnectionResetError


async def post_with_trailers(running: Stack, parts: list[bytes]) -> tuple[int, bytes]:
    """Send `parts` to Envoy over HTTP/2 and end with trailers."""
    reader, writer = await asyncio.open_connection("127.0.0.1", running.envoy.port)
    try:
        async with asyncio.timeout(20):
            return await Http2(reader, writer).post(CHAT, parts, {"x-checksum": "abc", "x-done": "yes"})
    finally:
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize("mode", ["held", "released", "duplex", "buffered"])
async def test_a_body_that_ends_with_trailers_arrives_whole(mode: str) -> None:
    """HTTP/2 clients may end a request so: it is routed like any other; without any data before them it is refused.

    Envoy would send the body twice if it were also to keep it for a retry.
    """
    async with stack([QUICK] * 2, mode=mode) as running:
        body = chat("x" * 15_000)
        for parts in ([body], [body[:7], body[7:9000], body[9000:]]):
            status, answer = await post_with_trailers(running, parts)
            assert (status, json.loads(answer)["object"]) == (200, "chat.completion")
            assert received(running.servers) == [body]
        status, answer = await post_with_trailers(running, [])
        assert (status, json.loads(answer)["error"]["type"]) == (400, "invalid_request_error")
        assert not received(running.servers)
