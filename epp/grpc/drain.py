"""The end of serving: not ready, serve on, let streams finish, stop. Decides when each step is over.

1. Readiness goes off. Whoever checks health sends no more requests, but only from the next check on.
2. Everything is served as before for all of `drain_seconds`, also when nothing is going on: who has not looked yet may
   still send a request.
3. New streams are refused, open ones get up to `grace_seconds`. As soon as `idle()` holds, what is left are streams that
   never end by themselves (EDS, access logs, health), and they are ended.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from epp.grpc.health import Health
    from epp.grpc.server import GrpcServer

log = structlog.get_logger(__name__)

_STEP = 0.05


async def drain(
    health: Health,
    servers: Sequence[GrpcServer],
    *,
    drain_seconds: float,
    grace_seconds: float,
    idle: Callable[[], bool],
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> None:
    """Stop `servers` without losing a request. `idle` tells whether no request is on its way."""
    log.info("draining", drain_seconds=drain_seconds, grace_seconds=grace_seconds)
    health.drain()
    if drain_seconds > 0:
        await sleep(drain_seconds)
    log.info("stopping", after=drain_seconds, idle=idle())
    await _stop(health, servers, grace_seconds, idle, sleep)


async def _stop(
    health: Health,
    servers: Sequence[GrpcServer],
    grace_seconds: float,
    idle: Callable[[], bool],
    sleep: Callable[[float], Awaitable[object]],
) -> None:
    async def until_idle() -> None:
        while not idle():
            await sleep(_STEP)
        await sleep(_STEP)  # the last stream's status is still on its way out

    health.close()
    async with asyncio.TaskGroup() as group:
        stopping = [group.create_task(server.stop(grace_seconds)) for server in servers]
        waiting = group.create_task(until_idle())
        await asyncio.wait([waiting, group.create_task(_all(stopping))], return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        for server in servers:
            group.create_task(server.stop(None))


async def _all(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        await task
