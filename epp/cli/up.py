"""`epp up`: a whole stack on this machine, shown at work: Envoy, the picker, model servers, and what it decided for samples.

Everything listens on loopback and ends with this command. With `--endpoints` real model servers take the simulated ones' place.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from epp.gateway.wiring import Failure, HostPort, Mode, Wiring

SIMULATED = 3


def up(
    *,
    endpoints: Annotated[str, typer.Option(help="Real model servers, comma separated: http://h1:8000,http://h2:8000.")] = "",
    once: Annotated[bool, typer.Option("--once", help="Send the sample requests, then end: 0 if all went as decided.")] = False,
    port: Annotated[int, typer.Option(help="Port of Envoy; a free one when it is taken.")] = 8080,
    mode: Annotated[Mode, typer.Option(help="How much of an exchange the picker sees.")] = Mode.HELD,
    failure: Annotated[Failure, typer.Option(help="Without a picker: any ready model server, or 503.")] = Failure.OPEN,
    model: Annotated[str, typer.Option(help="Model of the sample requests; the first that is served when not given.")] = "",
    config_file: Annotated[
        str, typer.Option(help="EndpointPickerConfig for the picker; one that finds its endpoints itself starts no simulators.")
    ] = "",
) -> None:
    """Start Envoy, the picker and model servers on loopback, send sample requests and show who answered and why."""
    import uvloop

    plan = Plan(endpoints, once, port, mode, failure, model, config_file)
    raise typer.Exit(uvloop.run(run(plan)))


@dataclass(frozen=True, slots=True)
class Plan:
    """What was asked for on the command line."""

    endpoints: str
    once: bool
    port: int
    mode: Mode
    failure: Failure
    model: str
    config_file: str


async def run(plan: Plan) -> int:
    """Bring the stack up, show it, and take it down; give the exit code."""
    from epp.cli.stack import ChildFailedError
    from epp.errors import ConfigError
    from epp.gateway.process import EnvoyError

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        async with AsyncExitStack() as stack:
            bringing_up = asyncio.ensure_future(_bring_up(plan, stack))
            stopping = asyncio.ensure_future(stop.wait())
            await asyncio.wait({bringing_up, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not bringing_up.done():
                bringing_up.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await bringing_up
                return 130
            stopping.cancel()
            code, picker = bringing_up.result()
            if plan.once:
                return code
            return await _stay(stop, picker)
    except (ChildFailedError, ConfigError, EnvoyError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 1


async def _stay(stop: asyncio.Event, picker: asyncio.subprocess.Process) -> int:
    """Wait for Ctrl-C, or for the picker to end by itself."""
    print("\nRunning until Ctrl-C.", flush=True)
    ended = asyncio.ensure_future(picker.wait())
    asked = asyncio.ensure_future(stop.wait())
    await asyncio.wait({ended, asked}, return_when=asyncio.FIRST_COMPLETED)
    for task in (ended, asked):
        task.cancel()
    if stop.is_set():
        return 0
    print(f"error: the picker ended with code {picker.returncode}", file=sys.stderr)
    return 1


async def _bring_up(plan: Plan, stack: AsyncExitStack) -> tuple[int, asyncio.subprocess.Process]:
    from epp.cli.samples import show
    from epp.cli.stack import Child
    from epp.gateway.config import render
    from epp.gateway.process import run_envoy

    arguments = [
        "serve", "--grpc-port", "0", "--grpc-health-port", "0", "--metrics-port", "0", "--secure-serving=false",
        "--log-format", "json", "--drain-timeout", "0s", "--bind-address", "127.0.0.1",
    ]  # fmt: skip
    if plan.config_file:
        arguments += ["--config-file", plan.config_file]
    if _finds_endpoints(plan.config_file):
        _say(f"model servers  those that {plan.config_file} finds")
    else:
        arguments += ["--endpoints", plan.endpoints or await _simulators(stack)]
        if plan.endpoints:
            _say(f"model servers  {plan.endpoints}")
    picker = await stack.enter_async_context(await Child.start("picker", arguments, heard=_tell))
    (serving,) = (await picker.says("serving"))[:1]
    admin = f"http://127.0.0.1:{serving['metrics_port']}"
    _say(f"picker         gRPC 127.0.0.1:{serving['grpc_port']}, admin {admin} (/metrics, /readyz, /api/pool, /api/decisions)")
    directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="epp-up-"))
    wiring = _wiring(plan, serving["grpc_port"])
    envoy = await stack.enter_async_context(run_envoy(render(wiring), log_path=Path(directory) / "envoy.log", concurrency=2))
    _say(f"Envoy          {envoy.url} ({plan.mode}, fail {plan.failure}), admin {envoy.admin_url}\n")
    code = await show(envoy.url, admin, plan.model)
    return code, picker.process


async def _simulators(stack: AsyncExitStack) -> str:
    """Start the simulated model servers; give their addresses."""
    from epp.cli.stack import Child

    simulators = await Child.start("simulate", ["simulate", "--count", str(SIMULATED), "--port", "0", "--name", "sim"])
    await stack.enter_async_context(simulators)
    lines = await simulators.says(" serves ", count=SIMULATED)
    endpoints = ",".join(line["event"].rpartition(" ")[2] for line in lines)
    _say(f"model servers  {SIMULATED} simulated: {endpoints}")
    return endpoints


def _finds_endpoints(config_file: str) -> bool:
    """Tell whether the configuration says itself where the endpoints are; raise `ConfigError` when it cannot be read."""
    from epp.config.load import load_file

    return bool(config_file) and load_file(config_file).data_layer.discovery is not None


def _say(line: str) -> None:
    """Print at once, also into a pipe: what goes wrong later must come after it."""
    print(line, flush=True)


def _wiring(plan: Plan, picker_port: int) -> Wiring:
    loopback = "127.0.0.1"
    return Wiring(
        mode=plan.mode, failure=plan.failure, listen=HostPort(loopback, _free(plan.port)),
        admin=HostPort(loopback, 0), picker=HostPort(loopback, picker_port), reveal_served=True,
    )  # fmt: skip


def _free(port: int) -> int:
    """Give `port`, or 0 (any) when somebody listens there."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return 0
        return port


def _tell(name: str, entry: dict[str, Any]) -> None:
    """Show what a child finds worth a warning."""
    if entry.get("level") in {"warning", "error", "critical"}:
        details = " ".join(f"{key}={value}" for key, value in entry.items() if key not in {"event", "level", "timestamp"})
        print(f"{name}: {entry['level']}: {entry.get('event')} {details}", file=sys.stderr)
