from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc

from epp.grpc.drain import drain
from epp.grpc.health import CHECK, Health
from epp.grpc.server import GrpcServer
from epp.methods import Metadata
from epp.pb.health_pb2 import HealthCheckRequest, HealthCheckResponse

PATH = "/test.Service/Method"
ENDLESS = "/test.Service/Endless"
WAIT = 10.0


class Time:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        """Start somewhere."""
        self.now = 100.0

    async def sleep(self, seconds: float) -> None:
        """Move the clock, and let others run."""
        self.now += seconds
        await asyncio.sleep(0.001)


class Service:
    """Counts its streams, as ext_proc does."""

    def __init__(self) -> None:
        """Start without streams."""
        self.streams = 0

    async def echo(self, requests: AsyncIterator[bytes], _metadata: Metadata) -> AsyncIterator[bytes]:
        """Serve a stream that is a request."""
        self.streams += 1
        try:
            async for message in requests:
                yield message
        finally:
            self.streams -= 1

    async def endless(self, _requests: AsyncIterator[bytes], _metadata: Metadata) -> AsyncIterator[bytes]:
        """Serve a stream that has no end, as EDS does."""
        yield b"hello"
        await asyncio.Event().wait()

    def idle(self) -> bool:
        """Tell whether no request is on its way."""
        return self.streams == 0


async def start(serve: Any, service: Service, health: Health) -> GrpcServer:
    """Start a server of all methods."""
    server: GrpcServer = await serve({PATH: service.echo, ENDLESS: service.endless, **health.methods()})
    return server


async def test_a_quiet_picker_serves_for_the_whole_drain_time(serve: Any) -> None:
    """With nothing going on the drain takes its time all the same: who has not heard of it yet may still send a request."""
    service, health, time = Service(), Health(), Time()
    server = await start(serve, service, health)
    await drain(health, [server], drain_seconds=30, grace_seconds=5, idle=service.idle, sleep=time.sleep)
    assert 130 <= time.now < 131
    assert health.draining


async def test_without_drain_time_it_stops_at_once(serve: Any) -> None:
    """A drain time of 0 skips the wait."""
    service, health, time = Service(), Health(), Time()
    server = await start(serve, service, health)
    await drain(health, [server], drain_seconds=0, grace_seconds=5, idle=service.idle, sleep=time.sleep)
    assert time.now < 101


async def test_requests_are_served_to_the_end_of_the_drain_time(serve: Any, connect: Any) -> None:
    """A request that comes late in the drain is answered as ever, while health says not to send any."""
    service, health, time = Service(), Health(), Time()
    server = await start(serve, service, health)
    channel = connect(server.ports[0])
    check = channel.unary_unary(
        CHECK, request_serializer=HealthCheckRequest.SerializeToString, response_deserializer=HealthCheckResponse.FromString
    )
    call = channel.stream_stream(PATH)
    answers: list[bytes] = []

    async def sleep(seconds: float) -> None:
        await time.sleep(seconds)
        if seconds == 30:  # the drain time is as good as over
            assert (await check(HealthCheckRequest(service=""))).status == HealthCheckResponse.NOT_SERVING
            stream = call()
            await stream.write(b"request")
            answers.append(await stream.read())
            await stream.done_writing()
            assert await stream.code() is grpc.StatusCode.OK

    await drain(health, [server], drain_seconds=30, grace_seconds=5, idle=service.idle, sleep=sleep)
    assert answers == [b"request"]


async def test_open_streams_finish_within_the_grace(serve: Any, connect: Any) -> None:
    """A stream still open after the drain time ends in its own time, with OK; streams without end are cut then."""
    service, health, time = Service(), Health(), Time()
    server = await start(serve, service, health)
    channel = connect(server.ports[0])
    endless = channel.stream_stream(ENDLESS)()
    assert await endless.read() == b"hello"
    stream = channel.stream_stream(PATH)()
    await stream.write(b"one")
    assert await stream.read() == b"one"
    draining = asyncio.ensure_future(
        drain(health, [server], drain_seconds=0.1, grace_seconds=3600, idle=service.idle, sleep=time.sleep)
    )
    await asyncio.sleep(0.2)
    assert not draining.done()
    await stream.write(b"two")
    assert await stream.read() == b"two"
    await stream.done_writing()
    assert await stream.code() is grpc.StatusCode.OK
    await asyncio.wait_for(draining, WAIT)


async def test_the_grace_is_an_end(serve: Any, connect: Any) -> None:
    """A stream that does not finish within the grace is cancelled and its `finally` runs."""
    service, health, time = Service(), Health(), Time()
    server = await start(serve, service, health)
    stream = connect(server.ports[0]).stream_stream(PATH)()
    await stream.write(b"one")
    assert await stream.read() == b"one"
    await asyncio.wait_for(drain(health, [server], drain_seconds=0, grace_seconds=0.1, idle=service.idle, sleep=time.sleep), WAIT)
    assert service.streams == 0
