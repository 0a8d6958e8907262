"""Requests through a real Envoy: rate, latency and the picker's CPU time a request, beside the same Envoy without a picker.

All sides run side by side and take turns under load, so that whatever else the machine does meets them alike. On a machine
with few cores the load, Envoy, the picker and the model servers share them: read the figures as ratios.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from bench.options import Options
from bench.processes import LOOPBACK, RunningPicker, cpu_seconds, picker, samples, simulators
from bench.proxies import with_peer, with_picker, without_picker
from bench.report import Table
from bench.wrk import Load, bodies, find_wrk, run
from epp.gateway.process import EnvoyProcess, run_envoy

ENDPOINTS = 8
DISTINCT = 256  # prompts
ALONE = "no picker"
_ATTEMPTS = "llm_d_epp_scheduler_attempts_total"
PACED = "requests/s is set by the pace of the answers, so few requests share the cost of scraping: read latency, and CPU by mode"
SETTLE = 1.0  # seconds: for EDS, for the first scrapes


@dataclass(frozen=True, slots=True)
class Campaign:
    """One kind of traffic. `simulate` are the model servers' arguments, `fields` go into each request."""

    title: str
    simulate: Sequence[str]
    modes: Sequence[str]
    fields: dict[str, object] = field(default_factory=dict)
    at_least: float = 0.0  # seconds of load each turn
    warm: float = 1.0
    notes: Sequence[str] = ()


@dataclass(slots=True)
class Side:
    """One Envoy, and whose CPU time is counted with it: `pid` is the picker's, None where it is not known."""

    name: str
    envoy: EnvoyProcess
    pid: int | None
    loads: list[Load] = field(default_factory=list)
    picker_cpu: list[float] = field(default_factory=list)  # seconds a request
    envoy_cpu: list[float] = field(default_factory=list)


async def bench(options: Options) -> list[Table]:
    """Measure plain answers in each mode, then streamed ones."""
    find_wrk()
    plain = Campaign(
        f"{options.prompt_bytes} byte prompts, one-token answers at once, {options.connections} connections",
        ("--instant",), options.modes,
    )  # fmt: skip
    streams = Campaign(
        f"{options.prompt_bytes} byte prompts, streamed answers of 200 tokens 10 ms apart, {options.connections} connections",
        ("--ttft-ms=20", "--itl-ms=10", "--max-num-seqs=1024"), [mode for mode in options.modes if mode != "released"],
        {"stream": True, "max_tokens": 200, "stream_options": {"include_usage": True}}, at_least=8.0, warm=3.0, notes=[PACED],
    )  # fmt: skip
    return [await measure(campaign, options) for campaign in (plain, streams) if campaign.modes]


async def measure(campaign: Campaign, options: Options) -> Table:
    """Run the rounds: every side once in each, in turn, after one that is not counted."""
    async with AsyncExitStack() as block:
        place = Path(block.enter_context(tempfile.TemporaryDirectory(prefix="epp-bench-")))
        requests = place / "requests"
        written = bodies(DISTINCT, options.prompt_bytes, rng=random.Random(7), fields=campaign.fields)
        requests.write_bytes(b"\n".join(written) + b"\n")
        sides, ours = await block.enter_async_context(_sides(campaign, options, place))
        await asyncio.sleep(SETTLE)
        for round_number in range(options.rounds + 1):
            for side in sides:
                if round_number:
                    await _turn(side, requests, options.connections, max(options.seconds, campaign.at_least))
                else:
                    await run(f"{side.envoy.url}/", requests, connections=options.connections, seconds=campaign.warm)
        table = _table(campaign, sides)
        used = sorted(await samples(ours, _ATTEMPTS))
        table.notes.append(
            f"our picker used {len(used)} of {ENDPOINTS} endpoints, for {used[0]:,.0f} to {used[-1]:,.0f} requests each"
        )
    return table


@asynccontextmanager
async def _sides(campaign: Campaign, options: Options, place: Path) -> AsyncIterator[tuple[list[Side], RunningPicker]]:
    """Start the model servers, the picker and an Envoy for each side."""
    async with AsyncExitStack() as block:
        urls = await block.enter_async_context(simulators(ENDPOINTS, *campaign.simulate, port=options.first_port))
        wanted: list[tuple[str, str, int | None]] = [(ALONE, without_picker(urls), None)]
        ours = await block.enter_async_context(picker(urls))
        wanted += [(mode, with_picker(mode, ours.grpc_port), ours.pid) for mode in campaign.modes]
        if options.peer:  # the same wiring for both, without the access log, which a peer may not take
            for name, address, pid, tls in (
                ("ours", f"{LOOPBACK}:{ours.grpc_port}", ours.pid, False),
                ("peer", options.peer, options.peer_pid, options.peer_tls),
            ):
                wanted += [(f"{name} as peer, {mode}", with_peer(mode, address, urls, tls=tls), pid) for mode in campaign.modes]
        sides: list[Side] = []
        for name, config, pid in wanted:
            log = place / f"envoy-{len(sides)}.log"
            envoy = await block.enter_async_context(run_envoy(config, log_path=log, concurrency=1))
            sides.append(Side(name, envoy, pid))
        yield sides, ours


async def _turn(side: Side, requests: Path, connections: int, seconds: float) -> None:
    envoy_before = cpu_seconds(side.envoy.pid)
    picker_before = cpu_seconds(side.pid) if side.pid else 0.0
    load = await run(f"{side.envoy.url}/", requests, connections=connections, seconds=seconds)
    if not load.requests or load.refused > load.requests // 100:
        message = f"{side.name}: {load.refused} of {load.requests} requests were refused, {load.broken} connections broke"
        raise RuntimeError(message)
    side.loads.append(load)
    side.envoy_cpu.append((cpu_seconds(side.envoy.pid) - envoy_before) / load.requests)
    if side.pid:
        side.picker_cpu.append((cpu_seconds(side.pid) - picker_before) / load.requests)


def _table(campaign: Campaign, sides: Sequence[Side]) -> Table:
    table = Table(
        f"Through Envoy: {campaign.title}",
        (
            "side",
            "requests/s",
            "of no picker",
            "p50 ms",
            "p99 ms",
            "added p50 ms",
            "picker µs/request",
            "Envoy µs/request",
            "failed",
        ),
    )
    base_rate, base_p50 = _rate(sides[0]), median(load.p50 for load in sides[0].loads)
    for side in sides:
        p50 = median(load.p50 for load in side.loads)
        table.rows.append((
            side.name, _rate(side), f"{_rate(side) / base_rate:.2f}", p50 * 1e3, median(load.p99 for load in side.loads) * 1e3,
            (p50 - base_p50) * 1e3, median(side.picker_cpu) * 1e6 if side.picker_cpu else None, median(side.envoy_cpu) * 1e6,
            sum(load.refused + load.broken for load in side.loads),
        ))  # fmt: skip
    table.notes = [
        f"medians of {len(sides[0].loads)} turns each, taken alternately; {ENDPOINTS} endpoints; Envoy with one worker",
        "picker µs/request holds all that the picker's process does meanwhile, scraping included",
        *campaign.notes,
    ]
    return table


def _rate(side: Side) -> float:
    return median(load.requests / load.seconds for load in side.loads)
