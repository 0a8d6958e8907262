"""Clients that go on sending while something happens to the stack, and keep count of what they got."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tests.e2e.stack import Answer, Stack


@dataclass(frozen=True)
class Sent:
    """One request: when it began and ended, and how. A status of 0 means that the connection broke."""

    began: float
    ended: float
    status: int
    served: str
    request_id: str


@dataclass
class Load:
    """What the clients got so far."""

    sent: list[Sent] = field(default_factory=list)
    over: asyncio.Event = field(default_factory=asyncio.Event)

    def stop(self) -> None:
        """Let each client send no more."""
        self.over.set()

    def since(self, when: float) -> list[Sent]:
        """Give the requests that began at `when` (monotonic) or later."""
        return [one for one in self.sent if one.began >= when]

    async def more(self, count: int, seconds: float = 20.0) -> list[Sent]:
        """Wait for `count` requests that begin from now on, and give them."""
        now = time.monotonic()
        async with asyncio.timeout(seconds):
            while True:
                found = self.since(now)
                if len(found) >= count:
                    return found
                await asyncio.sleep(0.02)


def failed(sent: Iterable[Sent]) -> list[Sent]:
    """Give those that were not answered with 200."""
    return [one for one in sent if one.status != 200]


@asynccontextmanager
async def load(stack: Stack, clients: int = 6, **fields: Any) -> AsyncIterator[Load]:
    """Send chat requests with `fields` for the block, each client one after another; the last ones are waited for."""
    load = Load()

    async def client(number: int) -> None:
        while not load.over.is_set():
            began = time.monotonic()
            try:
                answer = await stack.chat(f"client {number}", **fields)
            except aiohttp.ClientError:
                answer = Answer(0, {}, b"", "", "")
            load.sent.append(Sent(began, time.monotonic(), answer.status, answer.served, answer.request_id))
            if answer.status != 200:
                await asyncio.sleep(0.02)

    async with asyncio.TaskGroup() as group:
        for number in range(clients):
            group.create_task(client(number))
        try:
            yield load
        finally:
            load.stop()


async def nothing_in_flight(running: Stack, seconds: float = 10.0) -> None:
    """Wait until no endpoint counts a request; none may ever count less than none."""

    async def none() -> bool:
        leases = (await running.inflight()).values()
        assert min(leases, default=0) >= 0
        return not any(leases)

    await running.until(none, seconds)
