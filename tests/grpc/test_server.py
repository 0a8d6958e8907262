from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import structlog
from grpc import aio
from grpc.aio import EOF  # type: ignore[attr-defined]

from epp.grpc.server import GrpcServer, bind
from epp.methods import Metadata, RpcError

from .conftest import PATH, WAIT, echo, until


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
