"""The scraper: one task an endpoint asks its metrics page and records what it says in the pool.

It decides when an endpoint counts as unreachable, and nothing about routing:

- a refused or reset connection: at once, so a killed server is left within one scrape;
- a timeout: when it happens twice in a row, since a busy server may be slow once;
- an HTTP error, an unreadable page, a bad certificate: never, somebody answered. The last values stay and age.

Pages are asked for uncompressed: packing 200 KB costs a model server written in Python about 5 ms each time.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

import aiohttp
import structlog
from yarl import URL

from epp.endpoints.endpoint import join_address
from epp.scrape.options import OLD_ENGINE_LABEL
from epp.scrape.pace import next_delay
from epp.scrape.parse import PageReader

if TYPE_CHECKING:
    import random

    from epp.clock import Clock
    from epp.endpoints.endpoint import Endpoint, EndpointSpec
    from epp.endpoints.pool import Pool, Signals
    from epp.scrape.options import ScrapeOptions
    from epp.telemetry import Telemetry

log = structlog.get_logger(__name__)

TIMEOUTS = 2  # in a row make an endpoint unreachable
JITTER = 0.2  # of each delay: endpoints must not march in step
PULSE = 0.05  # seconds between looks for new requests on resting endpoints


class Failure(NamedTuple):
    """Why a scrape gave nothing. `cause` is timeout, connect, status or parse; `refused`: the connection itself failed."""

    cause: str
    detail: str
    refused: bool = False


class Unreadable(Exception):  # noqa: N818 - what the page is
    """A page that came but cannot be used."""

    def __init__(self, failure: Failure) -> None:
        """Say why."""
        super().__init__(failure.detail)
        self.failure = failure


class Target:
    """One endpoint as the scraper sees it: where its page is, and how the last scrapes went."""

    __slots__ = ("busy", "delay", "endpoint", "failing", "last", "separate", "spec", "timeouts", "url")

    def __init__(self, endpoint: Endpoint, options: ScrapeOptions) -> None:
        """Aim at `endpoint`, never scraped before."""
        self.endpoint = endpoint
        self.failing = False
        self.timeouts = 0
        self.busy = True
        self.delay = 0.0
        self.last: Signals | None = None
        self.aim(options)

    def aim(self, options: ScrapeOptions) -> None:
        """Work out the page's address from the endpoint's facts."""
        spec: EndpointSpec = self.endpoint.spec
        own = join_address(spec.address, options.port or spec.port)
        path = options.path if options.path.startswith("/") else f"/{options.path}"
        url = URL(f"{options.scheme}://{own}{path}", encoded=True)
        if spec.metrics_url:
            url = URL(spec.metrics_url)
            url = url if url.path.strip("/") else URL(f"{url.origin()}{path}", encoded=True)
        self.spec, self.url = spec, url
        # A page served elsewhere says nothing of the endpoint itself when it cannot be had.
        self.separate = url.port != spec.port or url.raw_host != spec.address

    def engine(self, label: str) -> str | None:
        """Give the engine type the endpoint is labelled with."""
        labels = self.spec.labels
        return labels.get(label) or labels.get(OLD_ENGINE_LABEL) or None


class Scraper:
    """Follows the pool: a task for each endpoint in it, none for those that left."""

    def __init__(self, pool: Pool, options: ScrapeOptions, *, clock: Clock, random: random.Random, telemetry: Telemetry) -> None:
        """Watch `pool`; nothing is asked before `run`."""
        self._pool = pool
        self._options = options
        self._clock = clock
        self._random = random
        self._telemetry = telemetry
        self._reader = PageReader(options.engines, options.default_engine)
        self._known = frozenset(engine.name for engine in options.engines)
        self._strange: set[str] = set()  # engine labels already complained of
        self._changed = asyncio.Event()
        self._tasks: dict[Endpoint, asyncio.Task[None]] = {}
        self._targets: dict[Endpoint, Target] = {}
        self._resting: dict[Target, asyncio.Future[None]] = {}
        self._floor = options.pace.interval
        pool.watch(self._changed.set)

    async def run(self) -> None:
        """Scrape until cancelled."""
        # One TLS context for all: an endpoint's own metrics address may be https even where `scheme` is not.
        connector = aiohttp.TCPConnector(limit=0, ssl=self._options.tls())
        async with (
            aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=self._options.timeout),
                headers={"Accept-Encoding": "identity", "Accept": "text/plain;version=0.0.4, */*;q=0.1"},
                trust_env=False,
            ) as session,
            asyncio.TaskGroup() as group,
        ):
            group.create_task(self._wake_busy(), name="scrape-pulse")
            try:
                while True:
                    self._changed.clear()
                    self._follow_pool(session, group)
                    await self._changed.wait()
            finally:
                self._tasks.clear()
                self._targets.clear()

    def _follow_pool(self, session: aiohttp.ClientSession, group: asyncio.TaskGroup) -> None:
        present = set(self._pool.endpoints)
        for endpoint in [endpoint for endpoint in self._tasks if endpoint not in present]:
            self._tasks.pop(endpoint).cancel()
            del self._targets[endpoint]
        for endpoint in self._pool.endpoints:
            if endpoint not in self._tasks:
                target = self._targets[endpoint] = Target(endpoint, self._options)
                self._tasks[endpoint] = group.create_task(self._follow(session, target), name=f"scrape {endpoint.key}")
        self._budget()

    # --- one endpoint ----------------------------------------------------------------------------------------------

    async def _follow(self, session: aiohttp.ClientSession, target: Target) -> None:
        # The first scrapes are spread too, but not over an interval that the operator made long: until then all is unknown.
        await asyncio.sleep(self._random.random() * min(self._floor, self._options.pace.max_interval))
        while True:
            changed = await self._scrape(session, target)
            target.busy = not target.failing and (changed or target.endpoint.leases > 0)
            target.delay = next_delay(target.delay, busy=target.busy, floor=self._floor, pace=self._options.pace)
            await self._rest(target, target.delay * (1 - JITTER * self._random.random()))

    def _budget(self) -> None:
        busy = sum(target.busy for target in self._targets.values())
        self._floor = self._options.pace.floor(busy, len(self._targets) - busy)

    async def _rest(self, target: Target, seconds: float) -> None:
        """Sleep; a long sleep ends early when a request is sent to the endpoint."""
        if seconds <= PULSE or target.failing:
            await asyncio.sleep(seconds)
            return
        loop = asyncio.get_running_loop()
        waker = self._resting[target] = loop.create_future()
        alarm = loop.call_later(seconds, _set, waker)
        try:
            await waker
        finally:
            alarm.cancel()
            del self._resting[target]

    async def _wake_busy(self) -> None:
        """Look now and then which resting endpoints have requests in flight: routing itself need not tell anybody.

        Only as many are woken at once as the budget allows; the next look finds the others.
        """
        at_once = max(1, int(self._options.pace.max_rate * PULSE))
        while True:
            await asyncio.sleep(PULSE)
            self._budget()
            busy = [target for target in self._resting if target.endpoint.leases and not target.busy]
            for target in busy[:at_once]:
                target.busy, target.delay = True, 0.0
                _set(self._resting[target])

    async def _scrape(self, session: aiohttp.ClientSession, target: Target) -> bool:
        """Ask once; say whether the values changed."""
        if target.endpoint.spec is not target.spec:
            target.aim(self._options)
        started = self._clock()
        try:
            signals = self._read(target, await self._fetch(session, target.url))
        except Exception as error:  # noqa: BLE001 - whatever a server sends, its task goes on
            await self._failed(target, translate(error))
            return False
        self._telemetry.scraped(target.endpoint.key, self._clock() - started)
        if target.failing:
            log.info("endpoint is scraped again", endpoint=target.endpoint.key)
        target.failing, target.timeouts = False, 0
        self._pool.record(target.endpoint, signals)
        changed, target.last = signals != target.last, signals
        return changed

    async def _fetch(self, session: aiohttp.ClientSession, url: URL) -> bytes:
        async with session.get(url, max_redirects=3) as response:
            if response.status != 200:
                raise Unreadable(Failure("status", f"HTTP status {response.status}"))
            page, size = [], 0
            async for chunk in response.content.iter_any():
                size += len(chunk)
                if size > self._options.max_bytes:
                    raise Unreadable(Failure("parse", f"page of more than {self._options.max_bytes} bytes"))
                page.append(chunk)
            return b"".join(page)

    def _read(self, target: Target, page: bytes) -> Signals:
        label = target.engine(self._options.engine_label)
        if label and label not in self._known and label not in self._strange:
            self._strange.add(label)
            log.warning("unknown engine type, recognising it by its metrics", endpoint=target.endpoint.key, engine=label)
        reading = self._reader.read(page, label)
        if reading is None:
            raise Unreadable(Failure("parse", "none of the known engines' metrics on the page"))
        return reading.signals

    async def _failed(self, target: Target, failure: Failure) -> None:
        endpoint = target.endpoint
        self._telemetry.scrape_failed(endpoint.key, failure.cause)
        if not target.failing:
            log.warning(
                "endpoint cannot be scraped",
                endpoint=endpoint.key,
                url=str(target.url),
                cause=failure.cause,
                error=failure.detail,
            )
        target.failing = True
        target.timeouts = target.timeouts + 1 if failure.cause == "timeout" else 0
        if not failure.refused and failure.cause != "timeout":
            self._pool.reachable(endpoint, reached=True)
        elif failure.refused or target.timeouts >= TIMEOUTS:
            reached = target.separate and await _answers(target.spec, self._options.timeout)
            self._pool.reachable(endpoint, reached=reached)


def translate(error: Exception) -> Failure:
    """Say what an exception of a scrape means."""
    detail = str(error) or type(error).__name__
    match error:
        case Unreadable():
            return error.failure
        case TimeoutError():
            return Failure("timeout", "no answer in time")
        case aiohttp.ClientSSLError():
            return Failure("connect", f"{detail}; set insecureSkipVerify or caCertPath of metrics-data-source")
        case aiohttp.ClientOSError() | aiohttp.ServerDisconnectedError() | OSError():
            return Failure("connect", detail, refused=True)
        case aiohttp.TooManyRedirects():
            return Failure("status", detail)
        case _:
            return Failure("parse", detail)


async def _answers(spec: EndpointSpec, timeout: float) -> bool:  # noqa: ASYNC109 - a connection attempt has one
    """Tell whether the endpoint itself accepts a connection, for pages that are served elsewhere."""
    try:
        async with asyncio.timeout(timeout):
            _, writer = await asyncio.open_connection(spec.address, spec.port)
    except OSError:  # TimeoutError is one
        return False
    writer.close()
    return True


def _set(waker: asyncio.Future[None]) -> None:
    if not waker.done():
        waker.set_result(None)
