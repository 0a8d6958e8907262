"""What a picker costs while nobody asks: CPU of `epp serve` over idle model servers whose metric pages have 200 KB."""

from __future__ import annotations

import asyncio

from bench.options import Options
from bench.processes import RunningPicker, cpu_seconds, picker, resident_bytes, samples, simulators
from bench.report import Table

PAGE_KB = 200
SETTLE = 4.0  # seconds: the scraper slows down by halves when nothing changes
_SCRAPES = "llm_d_epp_scrape_duration_seconds_count"


async def bench(options: Options) -> list[Table]:
    """Measure each pool size."""
    table = Table(
        f"Idle, metric pages of {PAGE_KB} KB, over {options.idle_seconds:g} s",
        ("endpoints", "CPU % of a core", "scrapes/s", "µs/scrape", "resident MiB"),
    )
    for endpoints in options.idle_pools:
        async with simulators(endpoints, "--instant", f"--metrics-padding={PAGE_KB}") as urls, picker(urls) as running:
            await asyncio.sleep(SETTLE)
            table.rows.append((str(endpoints), *await _watch(running, options.idle_seconds)))
    table.notes = ["µs/scrape is all CPU of the process by the number of scrapes"]
    return [table]


async def _watch(running: RunningPicker, seconds: float) -> tuple[float, float, float | None, float]:
    loop = asyncio.get_running_loop()
    scrapes, cpu, began = sum(await samples(running, _SCRAPES)), cpu_seconds(running.pid), loop.time()
    await asyncio.sleep(seconds)
    cpu, lasted = cpu_seconds(running.pid) - cpu, loop.time() - began
    scrapes = sum(await samples(running, _SCRAPES)) - scrapes
    return cpu / lasted * 100, scrapes / lasted, cpu / scrapes * 1e6 if scrapes else None, resident_bytes(running.pid) / 2**20
