"""How streams end: the caller has said all, cancels or is gone, the method has had enough, or the server stops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from grpc.aio import EOF  # type: ignore[attr-defined]

from epp.methods import Metadata, Method

from .conftest import PATH, WAIT, echo, until


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
