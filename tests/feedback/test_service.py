"""The access-log service: a stream of messages in, exchanges finished."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from epp.api import Outcome
from epp.feedback.service import METHOD, AccessLogs
from epp.pb.access_log_pb2 import HTTPAccessLogEntry, StreamAccessLogsMessage, StreamAccessLogsResponse
from tests.feedback.world import World

PEER = {":peer": "ipv4:10.9.9.9:5000"}


def message(*leases: str, node: str = "") -> bytes:
    """Write a message with an entry for each lease."""
    logs = StreamAccessLogsMessage()
    if node:
        logs.identifier.node.id = node
        logs.identifier.log_name = "epp"
    for lease in leases:
        entry = HTTPAccessLogEntry()
        entry.response.response_code.value = 200
        entry.common_properties.metadata.filter_metadata["envoy.lb"].update({"x-epp-lease": lease})
        logs.http_logs.log_entry.append(entry)
    return logs.SerializeToString()


async def sent(*messages: bytes) -> AsyncIterator[bytes]:
    """Send messages, then end the stream."""
    for raw in messages:
        yield raw


async def test_entries_finish_exchanges(world: World) -> None:
    """Each entry finishes its exchange; what is no message is passed over; one answer ends the stream."""
    leases = [world.route().id for _ in range(200)]
    table = AccessLogs(world.exchanges).methods()
    assert list(table) == ["/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs"]
    requests = sent(message(node="envoy-1"), b"\xff\xff\xff", message(*leases[:150]), message(*leases[150:]), b"")
    answers = [answer async for answer in table[METHOD](requests, PEER)]
    assert [StreamAccessLogsResponse.FromString(answer) for answer in answers] == [StreamAccessLogsResponse()]
    assert (len(world.exchanges), world.inflight) == (0, 0)
    assert world.outcomes[0] == Outcome("natural", 200, response_bytes=0)


@pytest.mark.parametrize("metadata", [{"x-epp-node": "envoy-1"}, {":peer": "ipv4:10.9.9.9:6000"}])
async def test_a_lost_stream_starts_the_grace(world: World, metadata: dict[str, str]) -> None:
    """When Envoy goes away, the exchanges that bear its name or its host's are given up after the grace."""
    exchange = world.route({"x-epp-completion": "access-log", **metadata})
    world.exchanges.stream_ended(exchange)
    arrived = asyncio.Event()

    async def requests() -> AsyncIterator[bytes]:
        yield message(node="envoy-1")
        arrived.set()
        await asyncio.Event().wait()

    async def read() -> None:
        async for _ in AccessLogs(world.exchanges).stream(requests(), PEER):
            pass

    task = asyncio.create_task(read())
    await arrived.wait()
    world.clock.now += 1000
    world.exchanges.expire()
    assert not exchange.finished
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    world.clock.now += 10
    world.exchanges.expire()
    assert exchange.finished
    assert world.outcomes == [Outcome("error")]


async def test_many_entries_let_others_work(world: World) -> None:
    """A large message gives up the event loop now and then."""
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    async for _ in AccessLogs(world.exchanges).stream(sent(message(*["x"] * 1000)), PEER):
        task.cancel()
    assert turns > 10
    assert world.exchanges.counts.unknown == 1000
