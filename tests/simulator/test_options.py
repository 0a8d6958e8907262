from __future__ import annotations

from typing import Any

import pytest

from epp.simulator.engine import EngineSettings, Sequence
from epp.simulator.options import SimulatorOptions
from epp.simulator.paced import PacedEngine


def test_the_engine_is_as_large_as_asked() -> None:
    """Every figure reaches the engine, and the defaults are the engine's own."""
    assert SimulatorOptions().engine().settings == EngineSettings()
    options = SimulatorOptions(
        num_blocks=9, block_size=8, max_num_seqs=7, max_num_batched_tokens=6, max_loras=5, prefix_caching=False
    )
    assert options.engine().settings == EngineSettings(9, 8, 7, 6, 5, prefix_caching=False)


def test_speed_makes_the_engine_faster() -> None:
    """Ten times the speed, a tenth of the time to first token."""

    def step_seconds(speed: float) -> float:
        engine = SimulatorOptions(speed=speed).engine()
        engine.submit(Sequence(1_000, 1), 0.0)
        until = engine.step(0.0).until
        assert until is not None
        return until

    assert step_seconds(10) == pytest.approx(step_seconds(1) / 10)


def test_one_fixed_latency_is_enough() -> None:
    """The other is then 0, and the timing model is out of play."""
    engine = SimulatorOptions(ttft_ms=100).engine()
    assert isinstance(engine, PacedEngine)
    engine.submit(Sequence(100_000, 1), 0.0)
    assert engine.step(0.0).until == pytest.approx(0.1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"port": 70_000},
        {"model": ""},
        {"name": "two\nlines"},
        {"default_max_tokens": 0},
        {"speed": 0},
        {"ttft_ms": -1},
        {"itl_ms": -1},
        {"fail_rate": 1.5},
        {"metrics_padding_kb": -1},
        {"record": -1},
        {"num_blocks": 0},
    ],
)
def test_nonsense_is_refused_by_name(wrong: dict[str, Any]) -> None:
    """The error names the option."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SimulatorOptions(**wrong)
