from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from epp.clock import system_clock
from epp.simulator.driver import Driver
from epp.simulator.engine import Engine, EngineSettings, Sequence
from epp.simulator.paced import PacedEngine
from epp.simulator.timing import Batch, LinearTiming

FAST = LinearTiming(base_ms=0.1, prefill_us=0, decode_us=0, context_us=0)


class CountingEngine(Engine):
    """An engine that counts how often it is asked to step."""

    calls = 0

    def step(self, now: float) -> object:  # type: ignore[override]
        """Count, then step."""
        self.calls += 1
        return super().step(now)


class BrokenTiming:
    """A timing model with a fault."""

    def seconds(self, batch: Batch) -> float:
        """Fail."""
        msg = f"no timing for {batch}"
        raise ArithmeticError(msg)


@asynccontextmanager
async def driven(engine: Engine, started: Callable[[Sequence], None] | None = None) -> AsyncIterator[Driver]:
    """Run a driver for the length of a block."""
    driver = Driver(engine, system_clock, started or (lambda _: None))
    task = asyncio.create_task(driver.run())
    try:
        yield driver
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_each_token_is_news_to_a_stream() -> None:
    """A ticket with `each` wakes until all its sequences have ended, and misses none of their tokens."""
    async with driven(Engine(EngineSettings(), FAST)) as driver:
        with driver.submit([Sequence(10, 5), Sequence(10, 8)], each=True) as ticket:
            wakes = 0
            while not ticket.over:
                await ticket.wait()
                wakes += 1
    assert [sequence.generated for sequence in ticket.sequences] == [5, 8]
    assert 2 <= wakes <= 8


async def test_only_ends_are_news_without_each() -> None:
    """A caller who wants the whole answer is not woken for each token."""
    async with driven(Engine(EngineSettings(), FAST)) as driver:
        with driver.submit([Sequence(10, 20)], each=False) as ticket:
            await ticket.wait()
            assert ticket.over


async def test_leaving_the_block_frees_what_the_call_held() -> None:
    """However the block is left, the engine is empty afterwards and others go on."""
    engine = PacedEngine(EngineSettings(), ttft=0.0, itl=60.0)
    async with driven(engine) as driver:
        with driver.submit([Sequence(100, 5)], each=True) as ticket:
            await ticket.wait()
            assert engine.cache.used > 0
        assert (engine.cache.used, len(engine.running), engine.totals.aborted) == (0, 0, 1)


async def test_an_impossible_call_leaves_nothing_behind() -> None:
    """When one of several sequences is refused, none of them stays."""
    engine = Engine(EngineSettings(num_blocks=2), FAST)
    async with driven(engine) as driver:
        with pytest.raises(ValueError, match="capacity"):
            driver.submit([Sequence(10, 1), Sequence(1_000, 1)], each=False)
        assert not engine.waiting


async def test_an_empty_engine_is_left_alone() -> None:
    """No polling: while nothing is submitted the engine is not stepped."""
    engine = CountingEngine(EngineSettings(), FAST)
    async with driven(engine) as driver:
        with driver.submit([Sequence(10, 2)], each=False) as ticket:
            await ticket.wait()
        await asyncio.sleep(0.01)
        calls = engine.calls
        await asyncio.sleep(0.1)
        assert engine.calls == calls


async def test_the_first_token_is_announced_once() -> None:
    """Each sequence's first token is reported once, for the histogram."""
    announced: list[Sequence] = []
    async with driven(Engine(EngineSettings(), FAST), announced.append) as driver:
        with driver.submit([Sequence(10, 5), Sequence(10, 0)], each=False) as ticket:
            while not ticket.over:
                await ticket.wait()
    assert sorted(map(id, announced)) == sorted(map(id, ticket.sequences))


async def test_a_fault_of_the_engine_reaches_everyone_who_waits() -> None:
    """Nobody hangs: who waits gets the fault, and so does who comes later."""
    driver = Driver(Engine(EngineSettings(), BrokenTiming()), system_clock, lambda _: None)
    task = asyncio.create_task(driver.run())
    with driver.submit([Sequence(10, 5)], each=False) as ticket, pytest.raises(ArithmeticError):
        await asyncio.wait_for(ticket.wait(), 5)
    with driver.submit([Sequence(10, 5)], each=False) as ticket, pytest.raises(ArithmeticError):
        await asyncio.wait_for(ticket.wait(), 5)
    with pytest.raises(ArithmeticError):
        await task
