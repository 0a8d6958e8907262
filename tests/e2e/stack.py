"""A whole stack for end-to-end tests: a real Envoy, the picker as its own process, simulated servers in the test's.

Every port is free and every process ends with the block, so tests run side by side.
"""

from __future__ import annotations

import asyncio
import errno
import json
import random
import socket
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from epp.cli.stack import Child
from epp.gateway.config import render
from epp.gateway.process import EnvoyProcess, run_envoy
from epp.gateway.wiring import Failure, HostPort, Mode, PickerTls, Wiring
from epp.simulator.options import FixedSignals, SimulatorOptions
from epp.simulator.server import SimulatedServer, serve

SERVED = "x-served-endpoint"


#: Below the ports that systems give to outgoing connections, one of which might take a port before its listener does.
PORTS = range(15_000, 32_000)
_given: set[int] = set()


def free_port(host: str = "127.0.0.1") -> int:
    """Find a port of `host` that nobody listens on and that was not given before; raise OSError when there is no such host."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    while True:
        port = random.choice(PORTS)
        with socket.socket(family) as probe:
            try:
                probe.bind((host, port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                continue
        if port not in _given:
            _given.add(port)
            return port


@dataclass
class Answer:
    """What a client got."""

    status: int
    headers: dict[str, str]
    body: bytes
    served: str
    request_id: str

    def json(self) -> Any:
        """Read the body."""
        return json.loads(self.body)


@dataclass
class Stack:
    """The running stack. `servers` are in this process: their `fixed` signals and `requests` are at hand."""

    servers: list[SimulatedServer]
    wiring: Wiring
    arguments: Sequence[str]
    session: aiohttp.ClientSession
    picker: Child
    ports: dict[str, int]
    envoy: EnvoyProcess
    url: str
    children: list[Child] = field(default_factory=list)

    @property
    def admin(self) -> str:
        """Where the picker's metrics and state are."""
        return f"http://127.0.0.1:{self.ports['metrics']}"

    def key(self, number: int) -> str:
        """Name server `number` as the picker does."""
        return f"127.0.0.1:{self.servers[number].port}"

    async def request(
        self, method: str, path: str, body: bytes | AsyncIterator[bytes] | None = None, headers: dict[str, str] | None = None
    ) -> Answer:
        """Send through Envoy."""
        request_id = str(uuid.uuid4())
        sent = {"x-request-id": request_id, "content-type": "application/json", **(headers or {})}
        async with self.session.request(method, f"{self.url}{path}", data=body, headers=sent) as answer:
            content = await answer.read()
            named = {name.lower(): value for name, value in answer.headers.items()}
            return Answer(answer.status, named, content, named.get(SERVED, ""), request_id)

    async def chat(self, text: str = "hello", *, headers: dict[str, str] | None = None, **fields: object) -> Answer:
        """Send a chat request."""
        body = {"model": "simulated-model", "messages": [{"role": "user", "content": text}], "max_tokens": 4, **fields}
        return await self.request("POST", "/v1/chat/completions", json.dumps(body).encode(), headers)

    async def state(self, path: str) -> Any:
        """Read a page of the picker's admin API as JSON."""
        async with self.session.get(f"{self.admin}{path}") as answer:
            return await answer.json()

    async def metric(self, name: str, /, **labels: str) -> float:
        """Sum the samples of a metric whose labels match."""
        from prometheus_client.parser import text_string_to_metric_families

        async with self.session.get(f"{self.admin}/metrics", headers={"accept": "text/plain"}) as answer:
            text = await answer.text()
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and all(sample.labels.get(key) == value for key, value in labels.items())
        )

    async def inflight(self) -> dict[str, float]:
        """Give the requests in flight, by endpoint."""
        return {row["endpoint"]: row["leases"] for row in (await self.state("/api/pool"))["endpoints"]}

    async def until(self, condition: Any, seconds: float = 10.0) -> Any:
        """Wait until the coroutine function `condition` gives something true, and give it."""
        async with asyncio.timeout(seconds):
            while not (found := await condition()):  # noqa: ASYNC110 - another process is looked at
                await asyncio.sleep(0.02)
            return found

    async def scraped(self) -> None:
        """Wait until the picker has seen the signals as they are now."""
        began = time.monotonic()

        async def seen() -> bool:
            rows = {row["endpoint"].rpartition(":")[2]: row for row in (await self.state("/api/pool"))["endpoints"]}
            ages = {port: row["scrape_age_seconds"] for port, row in rows.items()}
            elapsed = time.monotonic() - began
            return all(
                (age := ages[str(server.port)]) is not None and age < elapsed and _shows(rows[str(server.port)], server.fixed)
                for server in self.servers
            )

        await self.until(seen)

    async def start_picker(self) -> None:
        """Start the picker (again), on the same ports."""
        self.picker = await start_picker(self.ports, self.arguments)
        self.children.append(self.picker)


def _shows(row: dict[str, Any], fixed: FixedSignals) -> bool:
    """Tell whether the picker knows what a server was told to report."""
    numbers = {"waiting": fixed.waiting, "running": fixed.running, "kv_usage": fixed.kv_usage}
    names = {"adapters": fixed.running_adapters, "waiting_adapters": fixed.waiting_adapters}
    return all(value is None or row["columns"][name] == value for name, value in numbers.items()) and all(
        value is None or row[name] == sorted(value) for name, value in names.items()
    )


async def start_picker(ports: dict[str, int], arguments: Sequence[str]) -> Child:
    """Start `epp serve` on `ports` and wait until it serves."""
    picker = await Child.start(
        "picker",
        [
            "serve", "--bind-address", "127.0.0.1", "--log-format", "json", f"--grpc-port={ports['grpc']}",
            f"--grpc-health-port={ports['health']}", f"--metrics-port={ports['metrics']}", *arguments,
        ],
    )  # fmt: skip
    try:
        await picker.says("serving")
    except BaseException:
        await picker.stop()
        raise
    return picker


@asynccontextmanager
async def stack(
    servers: int | Sequence[SimulatorOptions] = 3,
    *,
    mode: str = "held",
    failure: str = "open",
    config: str = "",
    arguments: Sequence[str] = (),
    endpoints: bool = True,
    tls: PickerTls | None = None,
    directory: Path | None = None,
    rendered: Callable[[Wiring], str] = render,
) -> AsyncIterator[Stack]:
    """Run a stack; `config` is the text of an EndpointPickerConfig, `arguments` go to `epp serve`.

    Without `endpoints` the picker is not given --endpoints; with `tls` it serves securely.
    `rendered` makes Envoy's configuration.
    """
    options = [SimulatorOptions() for _ in range(servers)] if isinstance(servers, int) else servers
    ports = {name: free_port() for name in ("grpc", "health", "metrics")}
    async with AsyncExitStack() as block:
        place = directory or Path(block.enter_context(tempfile.TemporaryDirectory(prefix="epp-e2e-")))
        running = [await block.enter_async_context(serve(one)) for one in options]
        given = ["--drain-timeout=0s", f"--secure-serving={'true' if tls else 'false'}"]
        if endpoints:
            given.append("--endpoints=" + ",".join(server.url for server in running))
        if config:
            file = place / "config.yaml"
            file.write_text(config)
            given.append(f"--config-file={file}")
        given += arguments
        loopback = "127.0.0.1"
        wiring = Wiring(
            mode=Mode(mode), failure=Failure(failure), listen=HostPort(loopback, 0), admin=HostPort(loopback, 0),
            picker=HostPort(loopback, ports["grpc"]), picker_tls=tls, reveal_served=True, node=f"test-{ports['grpc']}",
        )  # fmt: skip
        picker = await start_picker(ports, given)
        children = [picker]
        block.push_async_callback(_stop, children)
        envoy = await block.enter_async_context(run_envoy(rendered(wiring), log_path=place / "envoy.log", concurrency=1))
        session = await block.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)))
        yield Stack(running, wiring, given, session, picker, ports, envoy, envoy.url, children)


async def _stop(children: list[Child]) -> None:
    for child in children:
        await child.stop()
