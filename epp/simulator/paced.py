"""The engine with latencies that are given, not computed: the first token after one time, each further after another.

Queue, running batch, adapters, prefix cache and preemption are the engine's; only the times differ. What load does to
latency is switched off, which makes tests exact.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from epp.simulator.engine import Engine, EngineSettings, Sequence, State, Step
from epp.simulator.timing import LinearTiming

if TYPE_CHECKING:
    from collections.abc import Iterable

UNLIMITED = 2**62  # tokens a step: prompts are not cut into chunks where computing them takes a given time


class PacedEngine(Engine):
    """An engine whose sequences get their tokens at fixed times after they left the queue."""

    def __init__(self, settings: EngineSettings, *, ttft: float, itl: float) -> None:
        """Take the seconds to the first token and between tokens; 0 is allowed."""
        if ttft < 0 or itl < 0:
            msg = f"latencies must be 0 or more: ttft {ttft}, itl {itl}"
            raise ValueError(msg)
        super().__init__(replace(settings, max_num_batched_tokens=UNLIMITED), LinearTiming())
        self._ttft, self._itl = ttft, itl

    def step(self, now: float) -> Step:
        """Give each sequence the token that is due by `now`, and let waiting ones run."""
        advanced = []
        for sequence in [sequence for sequence in self.running if sequence.due <= now]:
            if sequence.state is not State.RUNNING:
                continue  # gave its blocks to an older one a moment ago
            self._compute(sequence, sequence.total - sequence.computed, now)
            advanced.append(sequence)
            if not sequence.over:
                self._grow(sequence, sequence.total)
                sequence.due += self._itl
        for sequence, _ in self._admit(UNLIMITED, now):
            sequence.due = now + self._ttft
        self.totals.steps += bool(advanced)
        return Step(tuple(advanced), self._earliest(self.running))

    @staticmethod
    def _earliest(sequences: Iterable[Sequence]) -> float | None:
        return min((sequence.due for sequence in sequences), default=None)
