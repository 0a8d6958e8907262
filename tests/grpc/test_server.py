from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
import structlog
from grpc import aio
from grpc.aio import EOF  # type: ignore[attr-defined]

from epp.grpc.server import GrpcServer, bind
from epp.methods import Metadata, Method, RpcError

PATH = "/test.Service/Method"
WAIT = 10.0


async def echo(requests: AsyncIterator[bytes], _metadata: Metadata) -> AsyncIterator[bytes]:
    """Send back what comes."""
    async for message in requests:
        yield message


class Ends:
    """A method that tells how it ended."""

    def __init__(self, body: Method) -> None:
        """Do what `body` does."""
        self.ended = asyncio.Event()
        self.error: BaseException | None = None
        self._body = body

    async def method(self, requests: AsyncIterator[bytes], metadata: Metadata) -> AsyncIterator[bytes]:
        """Be the method."""
        try:
            async for reply in self._body(requests, metadata):
                yield reply
        except BaseException as error:
            self.error = error
            raise
        finally:
            self.ended.set()

    async def wait(self) -> None:
        """Wait for the method's end."""
        await asyncio.wait_for(self.ended.wait(), WAIT)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for `condition`."""
    async with asyncio.timeout(WAIT):
        while not condition():  # noqa: ASYNC110 - nobody sets an event for it
            await asyncio.sleep(0.005)


async def test_messages_pass_as_raw_bytes(serve: Any, connect: Any) -> None:
    """What the caller sends reaches the method byte for byte, and so do the replies, in order."""
    server = await serve({PATH: echo})
    call = connect(server.ports[0]).stream_stream(PATH)()
    for message in (b"", b"\x00\xff", b"x" * 100_000):
        await call.write(message)
        assert await call.read() == message
    await call.done_writing()
    assert await call.read() is EOF
    assert await call.code() is grpc.StatusCode.OK
    assert server.begun == {PATH: 1}


async def test_an_unknown_path_is_unimplemented(serve: Any, connect: Any) -> None:
    """A method that is not in the table is answered UNIMPLEMENTED."""
    server = await serve({PATH: echo})
    call = connect(server.ports[0]).stream_stream("/test.Service/Other")()
    await call.done_writing()
    assert await call.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_an_rpc_error_becomes_its_status(serve: Any, connect: Any) -> None:
    """A method chooses the gRPC status by raising RpcError, and what it yielded before still arrives."""

    async def method(requests: AsyncIterator[bytes], _metadata: Metadata) -> AsyncIterator[bytes]:
        async for message in requests:
            yield message
            raise RpcError(3, "write it better " + "x" * 5000)

    server = await serve({PATH: method})
    call = connect(server.ports[0]).stream_stream(PATH)()
    await call.write(b"one")
    assert await call.read() == b"one"
    assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (await call.details()).startswith("write it better")


@pytest.mark.parametrize("code", [0, 99])
async def test_a_status_that_does_not_exist_is_unknown(serve: Any, connect: Any, code: int) -> None:
    """RpcError with a number that is no error's gives UNKNOWN instead of breaking the stream."""

    async def method(_requests: AsyncIterator[bytes], _metadata: Metadata) -> AsyncIterator[bytes]:
        raise RpcError(code, "odd")
        yield b""

    server = await serve({PATH: method})
    call = connect(server.ports[0]).stream_stream(PATH)()
    assert await call.code() is grpc.StatusCode.UNKNOWN


async def test_any_other_exception_is_internal_and_logged_once(serve: Any, connect: Any) -> None:
    """A bug in a method gives INTERNAL without details, one log line with the traceback, and serving goes on."""

    async def method(requests: AsyncIterator[bytes], _metadata: Metadata) -> AsyncIterator[bytes]:
        async for message in requests:
            yield message
            text = "the prompt"
            raise ZeroDivisionError(text)

    server = await serve({PATH: method, "/test.Service/Echo": echo})
    channel = connect(server.ports[0])
    with structlog.testing.capture_logs() as logs:
        call = channel.stream_stream(PATH)()
        await call.write(b"one")
        assert await call.read() == b"one"
        assert await call.code() is grpc.StatusCode.INTERNAL
        assert "the prompt" not in (await call.details())
        await until(lambda: server.active == 0)
    assert [(line["event"], line["method"], line["error"]) for line in logs] == [("method failed", PATH, "ZeroDivisionError")]
    assert __file__ in logs[0]["place"]
    again = channel.stream_stream("/test.Service/Echo")()
    await again.write(b"alive")
    assert await again.read() == b"alive"


async def test_metadata_is_a_mapping_with_the_peer(serve: Any, connect: Any) -> None:
    """The method sees the caller's metadata by lower-case name, repeated values joined, and its address."""
    seen: dict[str, str] = {}

    async def method(_requests: AsyncIterator[bytes], metadata: Metadata) -> AsyncIterator[bytes]:
        seen.update(metadata)
        yield b"seen"

    server = await serve({PATH: method})
    sent = (("x-epp-node", "envoy-1"), ("twice", "a"), ("twice", "b"), ("raw-bin", b"\xff\x00"))
    call = connect(server.ports[0]).stream_stream(PATH)(metadata=sent)
    assert await call.read() == b"seen"
    assert await call.code() is grpc.StatusCode.OK
    assert (seen["x-epp-node"], seen["twice"], seen["raw-bin"]) == ("envoy-1", "a,b", "\xff\x00")
    assert seen[":peer"].startswith("ipv4:127.0.0.1:")


async def test_half_close_ends_the_requests(serve: Any, connect: Any) -> None:
    """When the caller has said all, the method's loop ends, and it may still answer."""

    async def method(requests: AsyncIterator[bytes], _metadata: Metadata) -> AsyncIterator[bytes]:
        messages = [message async for message in requests]
        await asyncio.sleep(0.02)
        yield b"+".join(messages)

    ends = Ends(method)
    server = await serve({PATH: ends.method})
    call = connect(server.ports[0]).stream_stream(PATH)()
    await call.write(b"a")
    await call.write(b"b")
    await call.done_writing()
    assert await call.read() == b"a+b"
    assert await call.code() is grpc.StatusCode.OK
    assert ends.error is None


async def test_a_method_may_end_before_the_caller(serve: Any, connect: Any) -> None:
    """A method that has read enough ends the stream with OK, though the caller would go on."""

    async def method(requests: AsyncIterator[bytes], _metadata: Metadata) -> AsyncIterator[bytes]:
        async for message in requests:
            yield message
            return

    server = await serve({PATH: method})
    call = connect(server.ports[0]).stream_stream(PATH)()
    await call.write(b"one")
    assert await call.read() == b"one"
    assert await call.read() is EOF
    assert await call.code() is grpc.StatusCode.OK


async def test_a_cancelled_stream_cleans_up_while_reading(serve: Any, connect: Any) -> None:
    """When the caller cancels, a method that waits for the next message runs its `finally`."""
    ends = Ends(echo)
    server = await serve({PATH: ends.method})
    call = connect(server.ports[0]).stream_stream(PATH)()
    await call.write(b"one")
    await call.read()
    call.cancel()
    await ends.wait()
    await until(lambda: server.active == 0)


async def test_a_cancelled_stream_cancels_whatever_the_method_waits_for(serve: Any, connect: Any) -> None:
    """When the caller cancels, a method that waits for something else gets CancelledError there."""

    async def method(requests: AsyncIterator[bytes], _metadata: Metadata) -> AsyncIterator[bytes]:
        async for message in requests:
            yield message
            await asyncio.Event().wait()

    ends = Ends(method)
    server = await serve({PATH: ends.method})
    call = connect(server.ports[0]).stream_stream(PATH)()
    await call.write(b"one")
    await call.read()
    call.cancel()
    await ends.wait()
    assert isinstance(ends.error, asyncio.CancelledError)


async def test_a_cancelled_stream_cleans_up_while_writing(serve: Any, connect: Any) -> None:
    """When the caller stops reading and cancels, a method stuck in `yield` is closed and its `finally` runs."""

    async def method(_requests: AsyncIterator[bytes], _metadata: Metadata) -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 1_000_000

    ends = Ends(method)
    server = await serve({PATH: ends.method})
    call = connect(server.ports[0]).stream_stream(PATH)()
    await call.read()
    call.cancel()
    await ends.wait()
    assert isinstance(ends.error, asyncio.CancelledError | GeneratorExit)


async def test_a_lost_connection_cleans_up(serve: Any, connect: Any) -> None:
    """When the caller's connection goes away, every method of it runs its `finally`."""
    ends = Ends(echo)
    server = await serve({PATH: ends.method})
    channel = connect(server.ports[0])
    call = channel.stream_stream(PATH)()
    await call.write(b"one")
    await call.read()
    await channel.close()
    await ends.wait()
    await until(lambda: server.active == 0)


async def test_stop_cancels_streams_and_waits_for_their_end(serve: Any, connect: Any) -> None:
    """`stop()` returns after every method's `finally`, even one that takes a moment."""
    finished = asyncio.Event()

    async def method(requests: AsyncIterator[bytes], _metadata: Metadata) -> AsyncIterator[bytes]:
        try:
            async for message in requests:
                yield message
        finally:
            await asyncio.sleep(0.05)
            finished.set()

    server = await serve({PATH: method})
    call = connect(server.ports[0]).stream_stream(PATH)()
    await call.write(b"one")
    await call.read()
    await server.stop()
    assert finished.is_set()
    assert server.active == 0


async def test_a_method_stuck_in_writing_is_over_before_its_stream_is_forgotten(serve: Any, connect: Any) -> None:
    """A method that the caller does not read from is closed by the server itself: `stop()` waits for its `finally` too."""
    finished = asyncio.Event()

    async def method(_requests: AsyncIterator[bytes], _metadata: Metadata) -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x" * 1_000_000
        finally:
            await asyncio.sleep(0.05)
            finished.set()

    server = await serve({PATH: method})
    call = connect(server.ports[0]).stream_stream(PATH)()
    await call.read()
    await asyncio.sleep(0.05)
    await server.stop()
    assert finished.is_set()


async def test_stop_with_grace_lets_streams_finish(serve: Any, connect: Any) -> None:
    """Within the grace an open stream goes on to its OK; new ones are refused."""
    ends = Ends(echo)
    server = await serve({PATH: ends.method})
    channel = connect(server.ports[0])
    call = channel.stream_stream(PATH)()
    await call.write(b"one")
    await call.read()
    stopping = asyncio.ensure_future(server.stop(WAIT))
    await asyncio.sleep(0.05)
    assert not stopping.done()
    await call.write(b"two")
    assert await call.read() == b"two"
    await call.done_writing()
    assert await call.code() is grpc.StatusCode.OK
    await asyncio.wait_for(stopping, WAIT)
    assert ends.error is None
    late = channel.stream_stream(PATH)(timeout=0.5)
    assert await late.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


async def test_a_second_stop_hurries_the_first(serve: Any, connect: Any) -> None:
    """`stop(None)` during a long grace ends it at once."""
    ends = Ends(echo)
    server = await serve({PATH: ends.method})
    call = connect(server.ports[0]).stream_stream(PATH)()
    await call.write(b"one")
    await call.read()
    stopping = asyncio.ensure_future(server.stop(3600))
    await asyncio.sleep(0.02)
    await server.stop()
    await asyncio.wait_for(stopping, WAIT)
    assert ends.ended.is_set()


async def test_a_server_never_started_stops() -> None:
    """Stopping what was not started changes nothing."""
    await GrpcServer({PATH: echo}).stop()


async def test_messages_are_unlimited_unless_limited(serve: Any, connect: Any) -> None:
    """20 MB pass by default; with a limit the caller gets RESOURCE_EXHAUSTED."""
    large = bytes(20_000_000)
    free, tight = await serve({PATH: echo}), await serve({PATH: echo}, max_receive=1000)
    call = connect(free.ports[0]).stream_stream(PATH)()
    await call.write(large)
    assert await call.read() == large
    refused = connect(tight.ports[0]).stream_stream(PATH)()
    with contextlib.suppress(aio.AioRpcError):
        await refused.write(large)
    assert await refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_several_addresses_serve_the_same_table(serve: Any, connect: Any) -> None:
    """Every address that is listened on answers."""
    server = await serve({PATH: echo}, "127.0.0.1:0", "127.0.0.1:0")
    assert len(set(server.ports)) == 2
    for port in server.ports:
        call = connect(port).stream_stream(PATH)()
        await call.write(b"hi")
        assert await call.read() == b"hi"


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
async def test_all_addresses_means_both_families(serve: Any) -> None:
    """`[::]` is reached over IPv4 and over IPv6."""
    server = await serve({PATH: echo}, "[::]:0")
    for host in ("127.0.0.1", "[::1]"):
        channel: Any = aio.insecure_channel(f"{host}:{server.ports[0]}")
        async with channel:
            call = channel.stream_stream(PATH)()
            await call.write(b"hi")
            assert await call.read() == b"hi"


async def test_a_taken_port_is_refused_by_name(serve: Any) -> None:
    """Two servers never share a port; the error names the address."""
    server = await serve({PATH: echo})
    address = f"127.0.0.1:{server.ports[0]}"
    with pytest.raises(OSError, match=re.escape(f"cannot listen on {address}")):
        await GrpcServer({PATH: echo}).start(address)


def test_without_ipv6_all_addresses_means_ipv4() -> None:
    """Where `[::]` cannot be bound, `0.0.0.0` is, on the same port."""
    asked: list[str] = []

    def add(address: str) -> int:
        asked.append(address)
        if address.startswith("["):
            message = "no IPv6 here"
            raise RuntimeError(message)
        return 9002

    assert bind(add, "[::]:9002") == 9002
    assert asked == ["[::]:9002", "0.0.0.0:9002"]


def test_a_port_of_zero_from_grpc_is_a_failure() -> None:
    """The older way of gRPC to say that it could not bind is noticed too."""
    with pytest.raises(OSError, match=r"cannot listen on 127\.0\.0\.1:1"):
        bind(lambda _address: 0, "127.0.0.1:1")


async def test_pings_never_cost_the_connection(serve: Any) -> None:
    """Envoy may ping as often as it likes without a stream open: all are answered and no GOAWAY comes."""
    server = await serve({PATH: echo})
    reader, writer = await asyncio.open_connection("127.0.0.1", server.ports[0])
    settings = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
    ping = bytes([0, 0, 8, 6, 0, 0, 0, 0, 0]) + b"12345678"
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings)
    kinds: list[int] = []
    async with asyncio.timeout(WAIT):
        for _ in range(50):
            writer.write(ping)
            while kinds.count(6) < 50:
                header = await reader.readexactly(9)
                await reader.readexactly(int.from_bytes(header[:3]))
                kinds.append(header[3])
                if kinds[-1] == 6 and header[4] & 1:
                    break
    assert kinds.count(6) >= 50
    assert 7 not in kinds
    writer.close()
    await writer.wait_closed()
