"""One simulated model server: vLLM's HTTP interface in front of a simulated engine, or of nothing (`instant`).

`serve` runs one for the length of a block; several may run on one event loop. This module binds, starts and ends;
what a request gets is decided in `handlers`, when it gets it in `engine`.
"""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections import deque
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from aiohttp import web

from epp.clock import Clock, system_clock
from epp.endpoints.endpoint import join_address
from epp.simulator.driver import Driver
from epp.simulator.handlers import Handlers
from epp.simulator.instant import InstantProtocol
from epp.simulator.instant_answers import InstantAnswers
from epp.simulator.metrics import Page

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from epp.simulator.calls import Received
    from epp.simulator.engine import Engine, Sequence
    from epp.simulator.options import FixedSignals, SimulatorOptions

SHUTDOWN_SECONDS = 0.25  # how long answers under way may go on when the server ends
BACKLOG = 1024


class SimulatedServer:
    """A server that runs. Tests read `requests` and `scrapes`, and change `fixed`, `fail_rate` and `loras` as they like."""

    def __init__(
        self, options: SimulatorOptions, port: int, *, clock: Clock, wall_clock: Callable[[], float], rng: random.Random
    ) -> None:
        """Put the parts together; `serve` starts them."""
        self.options = options
        self.port = port
        self.name = options.name or f"simulator-{port}"
        self.clock, self.wall_clock, self.random = clock, wall_clock, rng
        self.created = int(wall_clock())
        self.loras: dict[str, str] = dict.fromkeys(options.loras, "simulated")  # adapter name → path
        self.fixed: FixedSignals = options.fixed()
        self.fail_rate = options.fail_rate
        self.requests: deque[Received] = deque(maxlen=options.record)  # all but scrapes and health checks; none if `instant`
        self.scrapes = 0  # how often /metrics was read
        self.engine: Engine = options.engine()
        self.page = Page(options.model, self.engine, self.fixed, options.metrics_padding_kb)
        self.driver = Driver(self.engine, clock, self._started)

    @property
    def url(self) -> str:
        """The server's base URL, for clients on this machine."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.options.host, self.options.host)
        return f"http://{join_address(host, self.port)}"

    def failing(self) -> bool:
        """Throw the dice of the fault injection: whether this request is to fail."""
        return self.fail_rate > 0 and self.random.random() < self.fail_rate

    def metrics(self) -> bytes:
        """Give the metrics page as of now, and count the scrape."""
        self.scrapes += 1
        return self.page.render(self.wall_clock(), loras=bool(self.loras))

    def _started(self, sequence: Sequence) -> None:
        if sequence.first_token is not None:
            self.page.ttft.observe(max(0.0, sequence.first_token - sequence.arrived))


@asynccontextmanager
async def serve(
    options: SimulatorOptions,
    *,
    clock: Clock = system_clock,
    wall_clock: Callable[[], float] = time.time,
    rng: random.Random | None = None,
) -> AsyncIterator[SimulatedServer]:
    """Run one server while the block runs; it accepts connections when the block is entered."""
    listener = _bind(options.host, options.port)
    try:
        port: int = listener.getsockname()[1]
        rng = rng or random.Random(options.seed)
        server = SimulatedServer(options, port, clock=clock, wall_clock=wall_clock, rng=rng)
        driving = asyncio.create_task(server.driver.run(), name=f"driver of {server.name}")
        try:
            async with (_listen_instantly if options.instant else _listen)(server, listener):
                yield server
        finally:
            driving.cancel()
            with suppress(asyncio.CancelledError):
                await driving
    finally:
        listener.close()


def _bind(host: str, port: int) -> socket.socket:
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    listener = socket.create_server(address[:2], family=family, backlog=BACKLOG)
    listener.setblocking(False)
    return listener


@asynccontextmanager
async def _listen(server: SimulatedServer, listener: socket.socket) -> AsyncIterator[None]:
    runner = web.AppRunner(
        Handlers(server).application(), handler_cancellation=True, access_log=None, shutdown_timeout=SHUTDOWN_SECONDS
    )
    await runner.setup()
    try:
        await web.SockSite(runner, listener, backlog=BACKLOG).start()
        yield
    finally:
        await runner.cleanup()


@asynccontextmanager
async def _listen_instantly(server: SimulatedServer, listener: socket.socket) -> AsyncIterator[None]:
    respond = InstantAnswers(server).respond
    connections: set[asyncio.Transport] = set()
    loop = asyncio.get_running_loop()
    listening = await loop.create_server(lambda: InstantProtocol(respond, connections), sock=listener, backlog=BACKLOG)
    try:
        yield
    finally:
        listening.close()
        for transport in list(connections):
            transport.abort()
        await listening.wait_closed()
