from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from epp.simulator.engine import EngineSettings, Sequence, State
from epp.simulator.paced import PacedEngine

Finish = Callable[..., float]


def paced(**settings: Any) -> PacedEngine:
    """Make an engine with the first token after 1 s and the others 0.1 s apart."""
    return PacedEngine(EngineSettings(**{"block_size": 4, **settings}), ttft=1.0, itl=0.1)


def test_tokens_come_at_the_given_times() -> None:
    """The first after ttft, the others itl apart, however long the prompt is."""
    engine, times = paced(), []
    sequence = Sequence(10_000, 3)
    engine.submit(sequence, 5.0)
    now: float | None = 5.0
    while now is not None:
        step = engine.step(now)
        times += [now for _ in step.advanced]
        now = step.until
    assert times == pytest.approx([6.0, 6.1, 6.2])
    assert sequence.state is State.FINISHED


def test_a_newcomer_does_not_wait_for_others() -> None:
    """Latencies do not depend on load: a request that comes in between gets its token a ttft later."""
    engine = paced()
    engine.submit(Sequence(8, 1), 0.0)
    assert engine.step(0.0).until == 1.0
    late = Sequence(8, 1)
    engine.submit(late, 0.5)
    engine.step(0.5)
    engine.step(1.0)
    engine.step(1.5)
    assert late.first_token == 1.5


def test_the_batch_and_the_cache_still_count(finish: Finish) -> None:
    """Sequences, prefixes and preemption are the engine's; every block comes back."""
    engine = paced(max_num_seqs=2, num_blocks=8)
    sequences = [Sequence(12, 10, (1, 2, 3)) for _ in range(3)]
    for sequence in sequences:
        engine.submit(sequence, 0.0)
    engine.step(0.0)
    assert (len(engine.running), len(engine.waiting)) == (2, 1)
    finish(engine)
    assert [sequence.generated for sequence in sequences] == [10, 10, 10]
    assert engine.totals.preemptions >= 1
    assert engine.totals.prefix_hits > 0
    assert engine.cache.used == 0


def test_latencies_of_zero_are_allowed(finish: Finish) -> None:
    """Then an answer takes no time at all."""
    engine = PacedEngine(EngineSettings(), ttft=0, itl=0)
    engine.submit(Sequence(10, 5), 0.0)
    assert finish(engine) == 0.0


def test_negative_latencies_are_refused() -> None:
    """Time does not run backwards."""
    with pytest.raises(ValueError, match="latencies"):
        PacedEngine(EngineSettings(), ttft=-1, itl=0)
