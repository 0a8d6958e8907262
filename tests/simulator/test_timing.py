from __future__ import annotations

import pytest

from epp.simulator.timing import Accelerated, Batch, LinearTiming


def test_the_terms_add_up() -> None:
    """A step costs its base, its prompt tokens, its decoding sequences and what those attend to."""
    timing = LinearTiming(base_ms=10, prefill_us=100, decode_us=1000, context_us=1)
    assert timing.seconds(Batch(prefill_tokens=50, decode_seqs=2, context_tokens=3000)) == pytest.approx(0.020)


def test_the_defaults_are_an_8b_model_on_an_h100() -> None:
    """A lone decode step is some 7 ms, and 30 sequences of 12,000 tokens some 34 ms."""
    timing = LinearTiming()
    assert 0.006 < timing.seconds(Batch(decode_seqs=1, context_tokens=1000)) < 0.009
    assert 0.030 < timing.seconds(Batch(decode_seqs=30, context_tokens=360_000)) < 0.040


def test_speed_divides_time() -> None:
    """At ten times the speed a step takes a tenth."""
    batch = Batch(prefill_tokens=100)
    assert Accelerated(LinearTiming(), 10).seconds(batch) == pytest.approx(LinearTiming().seconds(batch) / 10)


@pytest.mark.parametrize("arguments", [{"base_ms": 0}, {"prefill_us": -1}, {"context_us": -0.1}])
def test_time_that_stands_still_is_refused(arguments: dict[str, float]) -> None:
    """A step without duration would never let the clock move."""
    with pytest.raises(ValueError, match="must take time"):
        LinearTiming(**arguments)


def test_speed_must_be_positive() -> None:
    """The error names the parameter."""
    with pytest.raises(ValueError, match="speed is 0"):
        Accelerated(LinearTiming(), 0)
