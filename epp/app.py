"""Builds the picker from its options, runs it, and takes it down in order. The only module that knows all parts.

Up: configuration, pool, plugins, router; then discovery and scraping; then the servers. Down: readiness off, serve on for
the drain time, finish the streams, stop what runs in the background.
"""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from epp.admin.decisions import DecisionLog
from epp.admin.metrics import PrometheusTelemetry
from epp.admin.page import MetricsPage
from epp.admin.pool import PoolGauges
from epp.admin.server import AdminServer
from epp.clock import Clock, system_clock
from epp.config.adapters import AdapterMap, parse_adapters
from epp.config.assemble import assemble
from epp.config.load import load_for, read_text
from epp.config.registry import Registry
from epp.config.watch import watch_file
from epp.discovery.static import StaticDiscovery, StaticParameters, parse_endpoints
from epp.discovery.xds import EndpointDiscovery
from epp.endpoints.endpoint import join_address
from epp.endpoints.pool import Pool
from epp.errors import ConfigError
from epp.extproc.service import METHOD, ExternalProcessor
from epp.feedback.registry import Exchanges, Hook
from epp.feedback.service import AccessLogs
from epp.flow.admission import Admission
from epp.grpc.drain import drain
from epp.grpc.health import Health
from epp.grpc.server import UNLIMITED, GrpcServer
from epp.grpc.tls import Certificates, server_credentials, ssl_context
from epp.requests.choose import ParserTable
from epp.router import Router
from epp.scheduling.guard import Guard, contained, ends_task, place
from epp.scheduling.scheduler import Scheduler
from epp.scrape.options import ScrapeOptions
from epp.scrape.pace import Pace
from epp.scrape.scraper import Scraper
from epp.scrape.sources import scrape_options

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from epp.api import Endpoint
    from epp.config.assembly import Assembly, Installed
    from epp.config.options import ServeOptions

log = structlog.get_logger(__name__)

RESTART_SECONDS = 1.0  # before a background task that failed is started again
EXPIRE_SECONDS = 1.0


class Picker:
    """The whole picker, built and not started. `run` serves until cancelled; `drain` ends it politely."""

    def __init__(
        self, options: ServeOptions, assembly: Assembly, *, clock: Clock = system_clock, rng: random.Random | None = None
    ) -> None:
        """Put the parts together; nothing listens, connects or runs yet."""
        rng = rng or random.Random()
        self.options = options
        self.assembly = assembly
        self.clock = clock
        scraping = self._scrape_options()
        self.pool = Pool(clock, stale_after=_stale_after(options, scraping))
        self.telemetry = PrometheusTelemetry(self.pool)
        self.guard = Guard(self.telemetry, clock)
        self.decisions = DecisionLog()
        self.parsers = ParserTable([one.plugin for one in assembly.parsers])
        self.router = self._router(rng)
        self.exchanges = Exchanges(
            pool=self.pool,
            telemetry=self.telemetry,
            clock=clock,
            random=rng,
            first_token=_hooks(assembly, "first_token"),
            finished=_hooks(assembly, "finished"),
        )
        self.ext_proc = ExternalProcessor(
            router=self.router,
            parsers=self.parsers,
            exchanges=self.exchanges,
            telemetry=self.telemetry,
            clock=clock,
            max_body=options.max_body_bytes,
            max_buffered=options.max_buffered_bytes,
        )
        self.health = Health(self._why_not_ready)
        self.scraper = Scraper(self.pool, scraping, clock=clock, random=rng, telemetry=self.telemetry)
        self.servers: list[GrpcServer] = []
        self._departed = _verbs(assembly, "departed")
        self._members: tuple[Endpoint, ...] = ()
        self._adapters_text: str | None = None  # of the file as it was last taken
        self.pool.watch(self._pool_changed)
        eds = EndpointDiscovery(self.pool, (options.eds_cluster,), presence=self.exchanges)
        logs = AccessLogs(self.exchanges)
        self.table = {METHOD: self.ext_proc.process, **logs.methods(), **eds.methods(), **self.health.methods()}

    def _router(self, rng: random.Random) -> Router:
        assembly = self.assembly
        return Router(
            pool=self.pool,
            parsers=self.parsers,
            adapters=AdapterMap(),
            admission=Admission(assembly.admitters, self.guard),
            producers=assembly.producers,
            scheduler=Scheduler(assembly.profiles, assembly.handler, telemetry=self.telemetry, random=rng),
            observers=[one for one in assembly.plugins.values() if hasattr(one.plugin, "routed")],
            guard=self.guard,
            telemetry=self.telemetry,
            journal=self.decisions,
            clock=self.clock,
            random=rng,
            emit_scores=self.options.emit_endpoint_scores,
            use_subset=not self.options.disable_endpoint_subset_filter,
        )

    def _scrape_options(self) -> ScrapeOptions:
        pace = Pace(interval=self.options.refresh_metrics_interval)
        return scrape_options([one.plugin for one in self.assembly.plugins.values()], ScrapeOptions(pace=pace))

    def _why_not_ready(self) -> Sequence[str]:
        return () if self.pool.synced else ("the endpoints are not known yet",)

    def _pool_changed(self) -> None:
        """Tell plugins who left, and health watchers that readiness may have changed."""
        members = self.pool.endpoints
        if members is not self._members:
            stay = set(members)
            for endpoint in self._members:
                if endpoint not in stay:
                    self._left(endpoint)
            self._members = members
        self.health.refresh()

    def _left(self, endpoint: Endpoint) -> None:
        for plugin, departed in self._departed:
            try:
                departed(endpoint)
            except Exception as error:  # noqa: BLE001 - a plugin may raise anything
                self.guard.failed("Departed", plugin, error)

    # --- running --------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def running(self) -> AsyncIterator[dict[str, int]]:
        """Serve for the block, which gets the ports that are really bound: `grpc`, `health`, `metrics`.

        A configuration that turns out to be unusable ends the block, and comes out as a group with the `ConfigError`.
        """
        async with asyncio.TaskGroup() as group:
            background = [
                group.create_task(_forever(name, run, started=lambda: self.pool.synced), name=name)
                for name, run in (
                    ("discovery", self._discover),
                    ("scraper", self.scraper.run),
                    ("adapters", self._follow_adapters),
                    ("exchanges", self._expire),
                )
            ]
            admin = self._admin()
            try:
                yield await self._listen(admin)
            finally:
                for server in self.servers:
                    await server.stop(None)
                await admin.stop()
                self.exchanges.close()
                for task in background:
                    task.cancel()

    async def drain(self) -> None:
        """Stop serving without losing a request: takes the drain time, and the time open streams need."""
        await drain(
            self.health,
            self.servers,
            drain_seconds=self.options.drain_timeout,
            grace_seconds=self.options.drain_timeout,
            idle=lambda: self.ext_proc.streams == 0,
        )

    def _admin(self) -> AdminServer:
        options = self.options
        tls = None
        if options.metrics_cert_dir:
            client_ca = Path(options.metrics_client_ca_file) if options.metrics_client_ca_file else None
            tls = ssl_context(Certificates(directory=Path(options.metrics_cert_dir), client_ca=client_ca))
        page = MetricsPage([self.telemetry, PoolGauges(self.pool, options.pool_name or "pool")])
        page.gauge("exchanges_open", "Routed requests whose end is not known yet.", lambda: len(self.exchanges))
        page.gauge(
            "exchanges_unreported",
            "Routed requests that were given up because no access-log entry came.",
            lambda: self.exchanges.counts.gone + self.exchanges.counts.expired + self.exchanges.counts.unreported,
        )
        page.gauge("buffered_request_bytes", "Bytes of request bodies held by all streams.", lambda: self.ext_proc.budget.used)
        return AdminServer(page=page, pool=self.pool, decisions=self.decisions, why_not_ready=self.health.reasons, tls=tls)

    async def _listen(self, admin: AdminServer) -> dict[str, int]:
        options = self.options
        credentials = None
        if options.secure_serving:
            directory = Path(options.cert_path) if options.cert_path else None
            client_ca = Path(options.client_ca_path) if options.client_ca_path else None
            credentials = server_credentials(
                Certificates(directory=directory, client_ca=client_ca, reload=options.enable_cert_reload)
            )
        main = GrpcServer(
            self.table,
            credentials=credentials,
            max_receive=options.grpc_max_recv_msg_size or UNLIMITED,
            max_send=options.grpc_max_send_msg_size or UNLIMITED,
        )
        health = GrpcServer(self.health.methods())
        self.servers = [main, health]
        host = options.bind_address
        return {
            "grpc": await main.start(join_address(host, options.grpc_port)),
            "health": await health.start(join_address(host, options.grpc_health_port)),
            "metrics": await admin.start(join_address(host, options.metrics_port)),
        }

    async def _discover(self) -> None:
        discovery = self.assembly.discovery
        if self.options.endpoints:
            await StaticDiscovery(StaticParameters(endpoints=self.options.endpoints)).run(self.pool.update)
        elif discovery is not None:
            await discovery.plugin.run(self.pool.update)

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(EXPIRE_SECONDS)
            self.exchanges.expire()
            indexes = [one.plugin.index for one in self.assembly.producers if hasattr(one.plugin, "index")]
            if indexes:
                self.telemetry.prefix_size(sum(index.pairs for index in indexes))

    async def _follow_adapters(self) -> None:
        file = self.options.adapters_file
        if file:
            await watch_file(file, self.use_adapters, what="adapters", telemetry=self.telemetry, seen=self._adapters_text)

    def use_adapters(self, text: str) -> None:
        """Take the adapters file's `text`; raise `ConfigError` and keep the old map when it cannot be used."""
        adapters = parse_adapters(text, self.options.adapters_file)
        self._adapters_text = text
        self.router.adapters = adapters
        for name in adapters.names:  # shown as themselves in the metrics, however many names clients invent
            self.telemetry.pin_model(name)


def build(options: ServeOptions) -> Picker:
    """Load what the options name and put the picker together; raise `ConfigError` with all that is wrong."""
    loaded = load_for(options)
    rng = random.Random()
    assembly = assemble(loaded, registry=Registry(), clock=system_clock, random=rng)
    for warning in assembly.warnings:
        log.warning(warning)
    if options.endpoints:
        parse_endpoints(options.endpoints)
    return Picker(options, assembly, rng=rng)


async def serve(options: ServeOptions) -> int:
    """Run the picker until SIGTERM or SIGINT; give the exit code. A second signal ends the drain."""
    picker = build(options)
    if options.adapters_file:
        picker.use_adapters(read_text(Path(options.adapters_file)))
    stop, hurry = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: hurry.set() if stop.is_set() else stop.set())
    async with picker.running() as ports:
        log.info("serving", **{f"{name}_port": port for name, port in ports.items()}, endpoints=len(picker.pool))
        await stop.wait()
        draining = asyncio.ensure_future(picker.drain())
        hurrying = asyncio.ensure_future(hurry.wait())
        await asyncio.wait({draining, hurrying}, return_when=asyncio.FIRST_COMPLETED)
        for task in (draining, hurrying):
            task.cancel()
        await asyncio.gather(draining, hurrying, return_exceptions=True)
    log.info("stopped")
    return 0


def _stale_after(options: ServeOptions, scraping: ScrapeOptions) -> float:
    """Give the age from which signals are unknown: never so short that a healthy endpoint is unknown between two scrapes."""
    needed = 2 * scraping.pace.interval + scraping.timeout
    if needed <= options.metrics_staleness_threshold:
        return options.metrics_staleness_threshold
    log.warning(
        "signals would be unknown between two scrapes: the staleness threshold is raised",
        scrape_interval=scraping.pace.interval,
        metrics_staleness_threshold=options.metrics_staleness_threshold,
        used=needed,
    )
    return needed


async def _forever(
    name: str,
    run: Callable[[], Awaitable[None]],
    *,
    started: Callable[[], bool],
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> None:
    """Run a background task; one that fails is logged and started again, for the picker serves on without it.

    But a `ConfigError` before the picker has `started` (knows endpoints) is raised: it will never serve anything.
    """
    while True:
        try:
            await run()
        except BaseException as error:  # whatever it is, a plugin's `SystemExit` too, requests are served on
            if ends_task(error):
                raise
            if not started() and (unusable := _config_error(error)) is not None:
                raise unusable from None
            log.error("background task failed and is started again", task=name, error=repr(error), place=place(error))
        else:
            return
        await sleep(RESTART_SECONDS)


def _config_error(error: BaseException) -> ConfigError | None:
    """Find a `ConfigError` in `error`, which may be a group of groups."""
    if isinstance(error, BaseExceptionGroup):
        return next((found for one in error.exceptions if (found := _config_error(one)) is not None), None)
    return error if isinstance(error, ConfigError) else None


def _verbs(assembly: Assembly, verb: str) -> list[tuple[Installed, Callable[..., object]]]:
    return [(one, contained(getattr(one.plugin, verb))) for one in assembly.plugins.values() if hasattr(one.plugin, verb)]


def _hooks(assembly: Assembly, verb: str) -> list[Hook]:
    return [Hook(one.name, one.type, call) for one, call in _verbs(assembly, verb)]
