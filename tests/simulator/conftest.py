"""What the tests of the simulator share: an engine run in virtual time, and a server with a client."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import pytest

from epp.simulator.engine import Engine
from epp.simulator.options import SimulatorOptions
from epp.simulator.server import SimulatedServer, serve

Start = Callable[..., Awaitable[tuple[SimulatedServer, aiohttp.ClientSession]]]


@pytest.fixture
def finish() -> Callable[[Engine, float], float]:
    """Give a function that runs an engine from a time until it is empty, and returns the time at which it was."""

    def run(engine: Engine, now: float = 0.0) -> float:
        for _ in range(100_000):
            until = engine.step(now).until
            if until is None:
                return now
            now = until
        pytest.fail("the engine did not come to an end")

    return run


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Give a function that starts a server with options and returns it with a client of its own."""
    async with AsyncExitStack() as stack:

        async def run(**options: Any) -> tuple[SimulatedServer, aiohttp.ClientSession]:
            server = await stack.enter_async_context(serve(SimulatorOptions(**options)))
            return server, await stack.enter_async_context(aiohttp.ClientSession(server.url))

        yield run
