"""The processes under measurement: simulated model servers and the picker, each an `epp` command, and what they cost.

Decides nothing about what is asked of them. Costs come from /proc, so the benches need Linux.
"""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from epp.cli.stack import Child

LOOPBACK = "127.0.0.1"
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def cpu_seconds(pid: int) -> float:
    """Give the CPU time that process `pid` has used in all its threads, in user and system mode."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS  # utime and stime, counted after the name in parentheses


def resident_bytes(pid: int | str = "self") -> int:
    """Give how much memory process `pid` holds."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE


def free_port() -> int:
    """Find a port nobody listens on."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def simulators(count: int, *arguments: str, port: int = 0) -> AsyncIterator[list[str]]:
    """Run `count` simulated model servers in one process of their own for the block; give their URLs."""
    child = await Child.start("simulators", ["simulate", "--count", str(count), "--port", str(port), *arguments])
    async with child:
        said = await child.says(" serves ", count=count)
        yield [str(entry["event"]).rpartition(" ")[2] for entry in said]


@dataclass(frozen=True, slots=True)
class RunningPicker:
    """A picker that serves."""

    pid: int
    grpc_port: int
    metrics_port: int


async def samples(running: RunningPicker, name: str) -> list[float]:
    """Read the values of metric `name` from the picker, one for each of its label sets."""
    url = f"http://{LOOPBACK}:{running.metrics_port}/metrics"
    async with aiohttp.ClientSession() as session, session.get(url, headers={"accept": "text/plain"}) as answer:
        lines = (await answer.text()).splitlines()
    return [float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name} ", f"{name}{{"))]


@asynccontextmanager
async def picker(urls: Sequence[str], *arguments: str) -> AsyncIterator[RunningPicker]:
    """Run `epp serve` over the model servers at `urls` for the block, without TLS, with the default configuration."""
    grpc, health, metrics = free_port(), free_port(), free_port()
    child = await Child.start(
        "picker",
        [
            "serve", "--bind-address", LOOPBACK, "--log-format", "json", "--secure-serving=false", "--drain-timeout=0s",
            f"--grpc-port={grpc}", f"--grpc-health-port={health}", f"--metrics-port={metrics}",
            "--endpoints=" + ",".join(urls), *arguments,
        ],
    )  # fmt: skip
    async with child:
        await child.says("serving")
        yield RunningPicker(child.process.pid, grpc, metrics)
