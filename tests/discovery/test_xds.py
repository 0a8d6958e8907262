"""The EDS method over raw messages: when it speaks, what it says, and that nothing of a stream is left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from structlog.testing import capture_logs

from epp.discovery.subscription import TYPE_URL
from epp.discovery.xds import AGGREGATED, ENDPOINTS, EndpointDiscovery
from epp.endpoints.endpoint import EndpointSpec
from epp.endpoints.pool import Pool
from epp.pb.eds_pb2 import DiscoveryRequest, DiscoveryResponse, Status
from epp.pb.endpoint_pb2 import ClusterLoadAssignment


class Proxy:
    """One stream, driven by hand."""

    def __init__(self, discovery: EndpointDiscovery, method: str = ENDPOINTS) -> None:
        """Open the stream."""
        self._requests: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._answers = discovery.methods()[method](self._stream(), {":peer": "test"})
        self.nonce = ""

    async def _stream(self) -> AsyncIterator[bytes]:
        while (raw := await self._requests.get()) is not None:
            yield raw

    def say(self, *names: str, error: str = "", type_url: str = TYPE_URL) -> None:
        """Send a request."""
        status = Status(message=error) if error else None
        request = DiscoveryRequest(resource_names=names, type_url=type_url, response_nonce=self.nonce, error_detail=status)
        self.send(request.SerializeToString())

    def send(self, raw: bytes | None) -> None:
        """Send bytes, or end the stream."""
        self._requests.put_nowait(raw)

    async def hear(self) -> list[ClusterLoadAssignment]:
        """Wait for an answer."""
        async with asyncio.timeout(5):
            answer = DiscoveryResponse.FromString(await anext(self._answers))
        self.nonce = answer.nonce
        return [ClusterLoadAssignment.FromString(resource.value) for resource in answer.resources]

    async def silence(self) -> None:
        """Check that nothing is said for a while; the stream is of no use afterwards."""
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await anext(self._answers)

    async def ended(self) -> None:
        """Check that the stream ends."""
        async with asyncio.timeout(5):
            with pytest.raises(StopAsyncIteration):
                await anext(self._answers)


def members(assignment: ClusterLoadAssignment) -> list[tuple[str, int, int]]:
    """Give address, port and health of each endpoint."""
    return [
        (
            member.endpoint.address.socket_address.address,
            member.endpoint.address.socket_address.port_value,
            member.health_status,
        )
        for locality in assignment.endpoints
        for member in locality.lb_endpoints
    ]


def pool_of(*addresses: str) -> Pool:
    """Make a pool."""
    pool = Pool(lambda: 0.0)
    if addresses:
        pool.update(EndpointSpec(address, 8000) for address in addresses)
    return pool


@pytest.mark.parametrize("method", [ENDPOINTS, AGGREGATED])
async def test_any_name_gets_the_whole_pool(method: str) -> None:
    """Alone or within ADS, each name asked for is answered with every endpoint, IPv6 too."""
    proxy = Proxy(EndpointDiscovery(pool_of("10.0.0.1", "fd00::1")), method)
    proxy.say("a", "b")
    assignments = await proxy.hear()
    assert [assignment.cluster_name for assignment in assignments] == ["a", "b"]
    assert members(assignments[0]) == members(assignments[1]) == [("10.0.0.1", 8000, 1), ("fd00::1", 8000, 1)]
    proxy.send(None)
    await proxy.ended()


async def test_nothing_is_said_before_the_pool_is_known() -> None:
    """An unknown pool is not an empty one; a known empty one is told as such."""
    pool = pool_of()
    proxy = Proxy(EndpointDiscovery(pool))
    proxy.say("pool")
    waiting = asyncio.ensure_future(proxy.hear())
    await asyncio.sleep(0.1)
    assert not waiting.done()
    pool.update([])
    (assignment,) = await waiting
    assert assignment.cluster_name == "pool"
    assert members(assignment) == []


async def test_changes_are_pushed_a_burst_at_once() -> None:
    """Each change reaches the proxy; what changes within the pause after a push comes in one."""
    pool = pool_of("10.0.0.1")
    proxy = Proxy(EndpointDiscovery(pool, coalesce=0.05))
    proxy.say("pool")
    await proxy.hear()
    proxy.say("pool")
    next_one = asyncio.ensure_future(proxy.hear())
    await asyncio.sleep(0.01)
    for last in range(2, 30):
        pool.update([EndpointSpec(f"10.0.0.{last}", 8000)])
    (assignment,) = await next_one
    assert members(assignment) == [("10.0.0.29", 8000, 1)]
    proxy.say("pool")
    await proxy.silence()


async def test_unreachable_endpoints_are_unhealthy_unless_all_are() -> None:
    """FailOpen should not go to a dead server; when all seem dead the scraper may be wrong, so none is."""
    pool = pool_of("10.0.0.1", "10.0.0.2")
    proxy = Proxy(EndpointDiscovery(pool, coalesce=0.0))
    proxy.say("pool")
    await proxy.hear()
    pool.reachable(pool.endpoints[0], reached=False)
    (assignment,) = await proxy.hear()
    assert members(assignment) == [("10.0.0.1", 8000, 2), ("10.0.0.2", 8000, 1)]
    pool.reachable(pool.endpoints[1], reached=False)
    (assignment,) = await proxy.hear()
    assert members(assignment) == [("10.0.0.1", 8000, 1), ("10.0.0.2", 8000, 1)]


async def test_a_refusal_is_logged_once_and_not_answered() -> None:
    """The refused version is not repeated; the next one is offered, and refused again is logged again."""
    pool = pool_of("10.0.0.1")
    discovery = EndpointDiscovery(pool, coalesce=0.0)
    first, second = Proxy(discovery), Proxy(discovery)
    with capture_logs() as logs:
        for proxy in (first, second):
            proxy.say("pool")
            await proxy.hear()
            proxy.say("pool", error="bad endpoints")
        await second.silence()
        assert [entry["error"] for entry in logs] == ["bad endpoints"]
        pool.update([EndpointSpec("10.0.0.2", 8000)])
        (assignment,) = await first.hear()
        assert members(assignment) == [("10.0.0.2", 8000, 1)]
        first.say("pool", error="still bad")
        await first.silence()
    assert [entry["error"] for entry in logs] == ["bad endpoints", "still bad"]


async def test_strange_messages_are_passed_over() -> None:
    """Garbage and requests for other types neither end the stream nor get an answer."""
    proxy = Proxy(EndpointDiscovery(pool_of("10.0.0.1")), AGGREGATED)
    with capture_logs() as logs:
        proxy.send(b"\xff\xff\xff")
        proxy.say(type_url="type.googleapis.com/envoy.config.cluster.v3.Cluster")
        proxy.say("pool")
        (assignment,) = await proxy.hear()
    assert len(members(assignment)) == 1
    assert len(logs) == 2


async def test_streams_leave_nothing_behind() -> None:
    """Ended by the client, cancelled by the host or broken in the middle: no task, no entry, one watcher in all."""
    pool = pool_of("10.0.0.1")
    discovery = EndpointDiscovery(pool)
    tasks = asyncio.all_tasks()
    ended, cancelled = Proxy(discovery), Proxy(discovery)
    for proxy in (ended, cancelled):
        proxy.say("pool")
        await proxy.hear()
    assert len(discovery._streams) == 2
    ended.send(None)
    await ended.ended()
    waiting = asyncio.ensure_future(cancelled.hear())
    await asyncio.sleep(0.1)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting

    async def breaks() -> AsyncIterator[bytes]:
        yield DiscoveryRequest(resource_names=["pool"]).SerializeToString()
        await asyncio.sleep(0.05)
        message = "connection lost"
        raise ConnectionError(message)

    with pytest.raises(ConnectionError):
        async for _ in discovery.stream(breaks(), {}):
            pass
    assert not discovery._streams
    assert asyncio.all_tasks() == tasks
    assert len(pool._watchers) == 1


class Guests:
    """Keeps who is there."""

    def __init__(self) -> None:
        """Nobody yet."""
        self.there: list[str] = []

    def proxy_came(self, node: str) -> None:
        """Let it in."""
        self.there.append(node)

    def proxy_left(self, node: str) -> None:
        """Let it go."""
        self.there.remove(node)


async def test_a_named_proxy_is_there_while_its_stream_is_open() -> None:
    """A proxy is reported once, however often it speaks, and is gone with its stream."""
    guests = Guests()
    proxy = Proxy(EndpointDiscovery(pool_of("10.0.0.1"), coalesce=0.0, presence=guests))
    for _ in range(2):
        proxy.send(DiscoveryRequest(resource_names=["pool"], node={"id": "edge"}).SerializeToString())
    await proxy.hear()
    assert guests.there == ["edge"]
    proxy.send(None)
    await proxy.ended()
    assert guests.there == []
