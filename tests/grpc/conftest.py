"""Servers on free ports and clients for them, closed again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from grpc import aio

from epp.grpc.server import GrpcServer
from epp.methods import Metadata, Table

Serve = Callable[..., Awaitable[GrpcServer]]
Connect = Callable[[int], Any]  # the stubs know no channel without serialisers

PATH = "/test.Service/Method"
WAIT = 10.0


async def echo(requests: AsyncIterator[bytes], _metadata: Metadata) -> AsyncIterator[bytes]:
    """Send back what comes."""
    async for message in requests:
        yield message


async def until(condition: Callable[[], bool]) -> None:
    """Wait for `condition`."""
    async with asyncio.timeout(WAIT):
        while not condition():  # noqa: ASYNC110 - nobody sets an event for it
            await asyncio.sleep(0.005)


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Start servers on free loopback ports."""
    servers: list[GrpcServer] = []

    async def start(table: Table, *addresses: str, **options: Any) -> GrpcServer:
        server = GrpcServer(table, **options)
        servers.append(server)
        await server.start(*(addresses or ("127.0.0.1:0",)))
        return server

    yield start
    for server in servers:
        await server.stop()


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Open plain channels to loopback ports."""
    channels: list[Any] = []

    def channel(port: int) -> Any:
        # its own connection: channels of equal arguments would share one
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
        channels.append(aio.insecure_channel(f"127.0.0.1:{port}", options=options))
        return channels[-1]

    yield channel
    for each in channels:
        await each.close()
