"""A model server that answers raw HTTP as told, and a scraper that runs beside the test."""

from __future__ import annotations

import asyncio
import random
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TypeAlias

import pytest

from epp.endpoints.pool import Pool
from epp.scrape.options import ScrapeOptions
from epp.scrape.scraper import Scraper
from epp.telemetry import Telemetry

PAGE = b'vllm:num_requests_waiting{engine="0"} %d\nvllm:num_requests_running 2\nvllm:kv_cache_usage_perc 0.5\n'


class ModelServer:
    """Serves a metrics page, or whatever else `page`, `status`, `raw` and `delay` say."""

    def __init__(self) -> None:
        """Be ready to start."""
        self.page = PAGE % 1
        self.status = 200
        self.raw: bytes | None = None  # sent instead of a response; the connection is closed after it
        self.delay = 0.0
        self.requests: list[bytes] = []
        self.connections = 0
        self.client_certificates: list[object] = []
        self.port = 0
        self.keep_alive = True
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self, tls: ssl.SSLContext | None = None) -> None:
        """Listen, on the same port as before if there was one."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def kill(self) -> None:
        """Stop as a killed process does: no more listening, every connection reset."""
        if self._server is None:
            return
        self._server.close()
        for writer in tuple(self._writers):
            writer.transport.abort()
        await self._server.wait_closed()
        self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.client_certificates.append(writer.get_extra_info("peercert"))
        self._writers.add(writer)
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                self.requests.append(await reader.readuntil(b"\r\n\r\n"))
                await asyncio.sleep(self.delay)
                head = b"HTTP/1.1 %d Whatever\r\ncontent-length: %d\r\n\r\n" % (self.status, len(self.page))
                writer.write(self.raw if self.raw is not None else head + self.page)
                await writer.drain()
                if self.raw is not None or not self.keep_alive:
                    break
        self._writers.discard(writer)
        with suppress(OSError):
            writer.close()
            await writer.wait_closed()


class Reports(Telemetry):
    """Counts what the scraper reports."""

    def __init__(self) -> None:
        """Start at nothing."""
        self.good: Counter[str] = Counter()
        self.failed: Counter[tuple[str, str]] = Counter()

    def scraped(self, endpoint: str, seconds: float) -> None:
        """Count a success."""
        assert seconds >= 0
        self.good[endpoint] += 1

    def scrape_failed(self, endpoint: str, cause: str) -> None:
        """Count a failure."""
        self.failed[endpoint, cause] += 1


@dataclass
class Bench:
    """A pool, and the scraper that works on it."""

    pool: Pool = field(default_factory=lambda: Pool(time.monotonic))
    reports: Reports = field(default_factory=Reports)
    options: ScrapeOptions = field(default_factory=ScrapeOptions)

    @asynccontextmanager
    async def scraping(self) -> AsyncIterator[Scraper]:
        """Run a scraper for a block; nothing of it may be left afterwards."""
        before = asyncio.all_tasks()
        scraper = Scraper(self.pool, self.options, clock=time.monotonic, random=random.Random(1), telemetry=self.reports)
        running = asyncio.create_task(scraper.run(), name="scraper under test")
        try:
            yield scraper
        finally:
            assert not running.done(), running
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running
        assert not [task for task in asyncio.all_tasks() - before if task.get_name().startswith("scrape")]


Eventually: TypeAlias = Callable[[Callable[[], object]], Awaitable[None]]


@pytest.fixture
def eventually() -> Eventually:
    """Give a function that waits until its condition holds, and fails when it never does."""

    async def wait(condition: Callable[[], object]) -> None:
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110 - the condition has no event
                await asyncio.sleep(0.005)

    return wait


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    """Run one model server."""
    server = ModelServer()
    await server.start()
    yield server
    await server.kill()


@pytest.fixture
async def other() -> AsyncIterator[ModelServer]:
    """Run another model server."""
    server = ModelServer()
    await server.start()
    yield server
    await server.kill()


@pytest.fixture
def bench() -> Bench:
    """Give a pool with a scraper to start."""
    return Bench()
