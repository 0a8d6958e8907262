from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc import aio
from grpc.aio import EOF  # type: ignore[attr-defined]

from epp.grpc.health import CHECK, READINESS, WATCH, Health
from epp.pb.health_pb2 import HealthCheckRequest, HealthCheckResponse

SERVING, NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING
WAIT = 10.0


@pytest.fixture
def reasons() -> list[str]:
    """Give the reasons against readiness; the test changes them."""
    return []


@pytest.fixture
def health(reasons: list[str]) -> Health:
    """Give a health service that follows `reasons`."""
    return Health(lambda: reasons)


@pytest.fixture
async def channel(health: Health, serve: Any, connect: Any) -> AsyncIterator[Any]:
    """Give a channel to a server of `health`."""
    server = await serve(health.methods())
    yield connect(server.ports[0])
    health.close()


async def check(channel: Any, service: str) -> int:
    """Ask as every health client does: one message each way."""
    call = channel.unary_unary(
        CHECK,
        request_serializer=HealthCheckRequest.SerializeToString,
        response_deserializer=HealthCheckResponse.FromString,
    )
    response = await call(HealthCheckRequest(service=service), timeout=WAIT)
    return int(response.status)


def watch(channel: Any, service: str) -> Any:
    """Watch as every health client does."""
    return channel.unary_stream(
        WATCH,
        request_serializer=HealthCheckRequest.SerializeToString,
        response_deserializer=HealthCheckResponse.FromString,
    )(HealthCheckRequest(service=service))


async def told(call: Any) -> int:
    """Give the next state that a watcher is told."""
    return int((await asyncio.wait_for(call.read(), WAIT)).status)


@pytest.mark.parametrize("service", READINESS)
async def test_check_follows_readiness(channel: Any, reasons: list[str], service: str) -> None:
    """The reference's names, Envoy's and the conformance manifests' are SERVING exactly while the picker is ready."""
    assert await check(channel, service) == SERVING
    reasons.append("pool not synced")
    assert await check(channel, service) == NOT_SERVING
    reasons.clear()
    assert await check(channel, service) == SERVING


async def test_liveness_is_always_serving(channel: Any, reasons: list[str], health: Health) -> None:
    """A picker that is not ready, or draining, is alive: a restart would not help it."""
    reasons.append("pool not synced")
    health.drain()
    assert await check(channel, "liveness") == SERVING


async def test_an_unknown_service_is_not_found(channel: Any) -> None:
    """Check of a name nobody serves fails with NOT_FOUND and tells the known names."""
    with pytest.raises(aio.AioRpcError) as failure:
        await check(channel, "nobody")
    assert failure.value.code() is grpc.StatusCode.NOT_FOUND
    assert "'readiness'" in str(failure.value.details())


async def test_nonsense_is_refused(channel: Any) -> None:
    """Bytes that are no request, and no request at all, are INVALID_ARGUMENT."""
    call = channel.stream_stream(CHECK)()
    await call.write(b"\xff\xff\xff")
    assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
    empty = channel.stream_stream(CHECK)()
    await empty.done_writing()
    assert await empty.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_draining_is_not_ready_for_good(channel: Any, health: Health) -> None:
    """Once draining, the picker says so and stays not ready."""
    health.drain()
    assert await check(channel, "") == NOT_SERVING
    assert "draining" in health.reasons()[0]


async def test_watch_tells_every_change_and_nothing_else(channel: Any, health: Health, reasons: list[str]) -> None:
    """A watcher gets the state, then each change as it happens; a refresh without a change is silent."""
    call = watch(channel, "readiness")
    assert await told(call) == SERVING
    health.refresh()
    reasons.append("pool not synced")
    health.refresh()
    assert await told(call) == NOT_SERVING
    reasons.clear()
    health.refresh()
    assert await told(call) == SERVING
    health.drain()
    assert await told(call) == NOT_SERVING


async def test_watch_of_an_unknown_service_waits_for_it(channel: Any, health: Health) -> None:
    """Watch answers SERVICE_UNKNOWN, stays open, and tells when the service appears."""
    call = watch(channel, "later")
    assert await told(call) == HealthCheckResponse.SERVICE_UNKNOWN
    health.set("later", serving=True)
    assert await told(call) == SERVING
    health.set("later", serving=False)
    assert await told(call) == NOT_SERVING


async def test_close_ends_the_watchers_streams(channel: Any, health: Health) -> None:
    """After `close` a watcher's stream ends with OK, so that the server can stop."""
    call = watch(channel, "")
    assert await told(call) == SERVING
    health.close()
    assert await asyncio.wait_for(call.read(), WAIT) is EOF
    assert await call.code() is grpc.StatusCode.OK
