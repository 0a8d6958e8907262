"""What a simulated server is: its name, its engine's size and speed, and the faults and fixed figures asked of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from epp.simulator.engine import Engine, EngineSettings
from epp.simulator.paced import PacedEngine
from epp.simulator.timing import Accelerated, LinearTiming, TimingModel

DEFAULT_MODEL = "simulated-model"
_ENGINE = EngineSettings()


@dataclass(slots=True)
class FixedSignals:
    """Figures that `/metrics` shows instead of the engine's; None shows the engine's. May be changed at any time."""

    waiting: float | None = None
    running: float | None = None
    kv_usage: float | None = None
    running_adapters: tuple[str, ...] | None = None
    waiting_adapters: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class SimulatorOptions:
    """The options of one simulated server. Port 0 takes a free one; an empty name becomes `simulator-<port>`.

    `ttft_ms` and `itl_ms` replace the timing model by fixed latencies; giving one makes the other 0. `instant` answers
    at once, without an engine. `record` is how many received requests are kept for a test to look at; 0 keeps none.
    """

    host: str = "127.0.0.1"
    port: int = 0
    name: str = ""
    model: str = DEFAULT_MODEL
    loras: tuple[str, ...] = ()
    default_max_tokens: int = 16

    num_blocks: int = _ENGINE.num_blocks
    block_size: int = _ENGINE.block_size
    max_num_seqs: int = _ENGINE.max_num_seqs
    max_num_batched_tokens: int = _ENGINE.max_num_batched_tokens
    max_loras: int = _ENGINE.max_loras
    prefix_caching: bool = True

    timing: TimingModel = field(default_factory=LinearTiming)
    speed: float = 1.0
    ttft_ms: float | None = None
    itl_ms: float | None = None

    instant: bool = False
    fail_rate: float = 0.0
    fixed_queue: float | None = None
    fixed_running: float | None = None
    fixed_kv: float | None = None
    fixed_loras: tuple[str, ...] | None = None
    metrics_padding_kb: int = 0
    record: int = 10_000
    seed: int | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be, naming the option."""
        checks = (
            ("port", 0 <= self.port <= 65_535, "must be between 0 and 65535"),
            ("model", bool(self.model), "must not be empty"),
            ("name", self.name.isascii() and (self.name.isprintable() or not self.name), "must be printable ASCII"),
            ("default_max_tokens", self.default_max_tokens >= 1, "must be at least 1"),
            ("speed", self.speed > 0, "must be above 0"),
            ("ttft_ms", self.ttft_ms is None or self.ttft_ms >= 0, "must be 0 or more"),
            ("itl_ms", self.itl_ms is None or self.itl_ms >= 0, "must be 0 or more"),
            ("fail_rate", 0 <= self.fail_rate <= 1, "must be between 0 and 1"),
            ("metrics_padding_kb", self.metrics_padding_kb >= 0, "must be 0 or more"),
            ("record", self.record >= 0, "must be 0 or more"),
        )
        for option, holds, must in checks:
            if not holds:
                msg = f"{option} is {getattr(self, option)!r}: it {must}"
                raise ValueError(msg)
        self.settings()

    def settings(self) -> EngineSettings:
        """Give the engine's size. Raises ValueError for an engine in which nothing could run."""
        return EngineSettings(
            num_blocks=self.num_blocks,
            block_size=self.block_size,
            max_num_seqs=self.max_num_seqs,
            max_num_batched_tokens=self.max_num_batched_tokens,
            max_loras=self.max_loras,
            prefix_caching=self.prefix_caching,
        )

    def engine(self) -> Engine:
        """Make the engine."""
        if self.ttft_ms is None and self.itl_ms is None:
            return Engine(self.settings(), Accelerated(self.timing, self.speed))
        ttft, itl = (self.ttft_ms or 0.0) / 1e3, (self.itl_ms or 0.0) / 1e3
        return PacedEngine(self.settings(), ttft=ttft / self.speed, itl=itl / self.speed)

    def fixed(self) -> FixedSignals:
        """Give the fixed figures to begin with."""
        return FixedSignals(self.fixed_queue, self.fixed_running, self.fixed_kv, self.fixed_loras)
