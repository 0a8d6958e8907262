"""How long one step of the engine takes: a function of what is in the batch, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Batch:
    """What one step computes: new prompt tokens, sequences that decode one token each, and what those attend to."""

    prefill_tokens: int = 0
    decode_seqs: int = 0
    context_tokens: int = 0  # tokens in the KV cache that the decoding sequences read
    kv_usage: float = 0.0  # the referenced share of the cache, for models fitted on it


class TimingModel(Protocol):
    """Any class with this method is a timing model."""

    def seconds(self, batch: Batch) -> float:
        """Say how long a step with `batch` takes; more than 0."""
        ...


@dataclass(frozen=True, slots=True)
class LinearTiming:
    """A roofline in linear form: reading the weights, computing the prompt, and reading the KV cache add up.

    The defaults stand for a model of 8 billion parameters in 16 bits on one H100: 7.5 ms to read the weights and launch
    32 layers, 25,000 prompt tokens a second, and 128 KiB of KV cache a token at about half of the memory's bandwidth.
    """

    base_ms: float = 7.5
    prefill_us: float = 40.0
    decode_us: float = 5.0
    context_us: float = 0.076

    def __post_init__(self) -> None:
        """Refuse what would make time stand still or run backwards."""
        if self.base_ms <= 0 or min(self.prefill_us, self.decode_us, self.context_us) < 0:
            msg = f"a step must take time: base_ms above 0, the other terms 0 or more; got {self}"
            raise ValueError(msg)

    def seconds(self, batch: Batch) -> float:
        """Add the terms up."""
        variable = (
            batch.prefill_tokens * self.prefill_us + batch.decode_seqs * self.decode_us + batch.context_tokens * self.context_us
        )
        return self.base_ms * 1e-3 + variable * 1e-6


class Accelerated:
    """Another timing model, `speed` times as fast."""

    def __init__(self, model: TimingModel, speed: float) -> None:
        """Wrap `model`."""
        if speed <= 0:
            msg = f"speed is {speed}: it must be above 0"
            raise ValueError(msg)
        self._model, self._speed = model, speed

    def seconds(self, batch: Batch) -> float:
        """Divide the model's time by the speed."""
        return self._model.seconds(batch) / self._speed
