"""Runs an engine in real time: sleeps until the step under way ends, wakes whom it brought a token.

While the engine is empty it sleeps until something is submitted. The engine decides; this only keeps time.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from epp.clock import Clock
    from epp.simulator.engine import Engine, Sequence

#: How far the engine's time may differ from the clock's. Within it a late step begins when the last one ended, so that
#: an event loop that wakes a little late does not make the engine slower; beyond it the delay is real.
AHEAD, BEHIND = 0.0005, 0.005


class Ticket:
    """A call in the engine: its sequences, and a way to wait for them. Leaving the block ends those still running."""

    def __init__(self, driver: Driver, sequences: list[Sequence], *, each: bool) -> None:
        """Hold `sequences`; `each` wakes at each token, else only when one has ended."""
        self.sequences = sequences
        self.each = each
        self._driver = driver
        self._news = asyncio.Event()

    @property
    def over(self) -> bool:
        """Whether all sequences have ended."""
        return all(sequence.over for sequence in self.sequences)

    async def wait(self) -> None:
        """Wait until there is news since the last wait: a token (with `each`) or an end."""
        await self._news.wait()
        self._news.clear()
        if self._driver.failure is not None:
            raise self._driver.failure

    def notify(self) -> None:
        """There is news."""
        self._news.set()

    def __enter__(self) -> Self:
        """Hold the sequences for a block."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Free what the call holds in the engine, whatever ended it."""
        self._driver.drop(self)


class Driver:
    """Advances one engine for as long as `run` runs."""

    def __init__(self, engine: Engine, clock: Clock, started: Callable[[Sequence], None]) -> None:
        """Drive `engine` by `clock`; `started` is called with each sequence that has just got its first token."""
        self.engine = engine
        self.clock = clock
        self.failure: Exception | None = None
        self._started = started
        self._tickets: dict[Sequence, Ticket] = {}
        self._unannounced: set[Sequence] = set()  # sequences whose first token is still to come
        self._wake = asyncio.Event()

    def submit(self, sequences: list[Sequence], *, each: bool) -> Ticket:
        """Queue all of `sequences` or, with a ValueError, none of them."""
        ticket, now = Ticket(self, sequences, each=each), self.clock()
        try:
            for sequence in sequences:
                self.engine.submit(sequence, now)
                self._tickets[sequence] = ticket
        except ValueError:
            self.drop(ticket)
            raise
        self._unannounced.update(sequences)
        self._wake.set()
        if self.failure is not None:
            ticket.notify()
        return ticket

    def drop(self, ticket: Ticket) -> None:
        """End what still runs of `ticket` and forget it."""
        for sequence in ticket.sequences:
            self.engine.abort(sequence)
            self._tickets.pop(sequence, None)
            self._unannounced.discard(sequence)

    async def run(self) -> None:
        """Advance the engine until cancelled. A fault of the engine is handed to everyone who waits, and raised."""
        try:
            await self._run()
        except Exception as error:
            self.failure = error
            for ticket in self._tickets.values():
                ticket.notify()
            raise

    async def _run(self) -> None:
        now = self.clock()
        while True:
            self._wake.clear()
            step = self.engine.step(now)
            for sequence in step.advanced:
                self._announce(sequence)
            if step.until is None:
                await self._wake.wait()
                now = self.clock()
            else:
                now = await self._sleep(step.until)

    def _announce(self, sequence: Sequence) -> None:
        if sequence in self._unannounced:
            self._unannounced.discard(sequence)
            self._started(sequence)
        ticket = self._tickets.get(sequence)
        if ticket is not None and (ticket.each or sequence.over):
            ticket.notify()

    async def _sleep(self, until: float) -> float:
        """Sleep until `until` or a submission; give the time at which the engine is to be stepped."""
        if (delay := until - self.clock()) > AHEAD:
            timer = asyncio.get_running_loop().call_later(delay, self._wake.set)
            try:
                await self._wake.wait()
            finally:
                timer.cancel()
        else:
            await asyncio.sleep(0)  # a fast engine must not keep the event loop from the clients
        now = self.clock()
        return until if -AHEAD <= now - until <= BEHIND else now
