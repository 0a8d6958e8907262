"""The `/metrics` page in vLLM's names: the engine's figures as Prometheus text, and padding to a real page's size.

Pure: figures and the wall clock's time in, text out. A name of a counter ends in `_total`, as the Python client prints it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from epp.simulator.engine import Engine
    from epp.simulator.options import FixedSignals

TTFT_BUCKETS = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0,
    2560.0,
)  # fmt: skip
LATENCY_BUCKETS = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0,
)  # fmt: skip
#: Other families of a real page, for padding; then handlers of the HTTP server, as many as it takes.
PADDING_FAMILIES = (
    "vllm:e2e_request_latency_seconds", "vllm:request_queue_time_seconds", "vllm:request_inference_time_seconds",
    "vllm:request_prefill_time_seconds", "vllm:request_decode_time_seconds", "vllm:inter_token_latency_seconds",
    "vllm:request_time_per_output_token_seconds", "vllm:request_prompt_tokens", "vllm:request_generation_tokens",
    "vllm:iteration_tokens_total", "vllm:request_max_num_generation_tokens", "vllm:request_params_n",
    "vllm:request_params_max_tokens",
)  # fmt: skip
LORA_HISTORY = 8  # as in vLLM a combination of adapters that is over stays on the page, with the time it was last true


class Histogram:
    """Counts of observations up to each bound."""

    def __init__(self, bounds: Sequence[float]) -> None:
        """Start at zero."""
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count `value`."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def lines(self, name: str, labels: str) -> Iterator[str]:
        """Give the samples, buckets cumulative."""
        seen = 0
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            seen += count
            yield f'{name}_bucket{{{labels},le="{bound}"}} {seen}.0'
        yield f"{name}_count{{{labels}}} {seen}.0"
        yield f"{name}_sum{{{labels}}} {self.sum}"


class Page:
    """One server's page. Set `fixed` figures at any time; they show at once."""

    def __init__(self, model: str, engine: Engine, fixed: FixedSignals, padding_kb: int) -> None:
        """Show `engine` under `model`'s name, with about `padding_kb` KiB of other families."""
        self.engine = engine
        self.fixed = fixed
        self.ttft = Histogram(TTFT_BUCKETS)
        self.instant_answers = 0  # answers given without the engine
        self._labels = f'model_name="{_escape(model)}",engine="0"'
        self._loras: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._padding = "".join(_padding(self._labels, padding_kb * 1024)).encode()

    def render(self, wall_time: float, *, loras: bool) -> bytes:
        """Give the page. `loras` says whether the server knows adapters at all; without, that family is not shown."""
        lines = [*self._gauges(), *self._counters(), *self._cache_config()]
        lines += _family("vllm:time_to_first_token_seconds", "histogram", "Histogram of time to first token in seconds.")
        lines += self.ttft.lines("vllm:time_to_first_token_seconds", self._labels)
        if loras or self.fixed.running_adapters or self.fixed.waiting_adapters:
            lines += self._lora_info(wall_time)
        return ("\n".join(lines) + "\n").encode() + self._padding

    def _gauges(self) -> Iterator[str]:
        fixed, engine = self.fixed, self.engine
        for name, text, value, override in (
            ("num_requests_running", "Number of requests in model execution batches.", len(engine.running), fixed.running),
            ("num_requests_waiting", "Number of requests waiting to be processed.", len(engine.waiting), fixed.waiting),
            ("kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage.", engine.cache.usage, fixed.kv_usage),
        ):
            yield from _family(f"vllm:{name}", "gauge", text)
            yield f"vllm:{name}{{{self._labels}}} {float(value if override is None else override)}"

    def _counters(self) -> Iterator[str]:
        totals = self.engine.totals
        for name, text, value in (
            ("prefix_cache_queries", "Prefix cache queries, in terms of number of queried tokens.", totals.prefix_queries),
            ("prefix_cache_hits", "Prefix cache hits, in terms of number of cached tokens.", totals.prefix_hits),
            ("num_preemptions", "Cumulative number of preemption from the engine.", totals.preemptions),
            ("prompt_tokens", "Number of prefill tokens processed.", totals.prompt_tokens),
            ("generation_tokens", "Number of generation tokens processed.", totals.generated_tokens),
        ):
            yield from _family(f"vllm:{name}_total", "counter", text)
            yield f"vllm:{name}_total{{{self._labels}}} {float(value)}"
        yield from _family("vllm:request_success_total", "counter", "Count of successfully processed requests.")
        for reason, value in (("stop", totals.finished + self.instant_answers), ("abort", totals.aborted)):
            yield f'vllm:request_success_total{{{self._labels},finished_reason="{reason}"}} {float(value)}'

    def _cache_config(self) -> Iterator[str]:
        settings = self.engine.settings
        yield from _family("vllm:cache_config_info", "gauge", "Information of the LLMEngine CacheConfig")
        yield (
            f'vllm:cache_config_info{{block_size="{settings.block_size}",cache_dtype="auto",'
            f'enable_prefix_caching="{settings.prefix_caching}",engine="0",gpu_memory_utilization="0.9",'
            f'num_cpu_blocks="None",num_gpu_blocks="{settings.num_blocks}"}} 1.0'
        )

    def _lora_info(self, wall_time: float) -> Iterator[str]:
        running = tuple(self.engine.adapters) if self.fixed.running_adapters is None else self.fixed.running_adapters
        waiting = tuple(self.engine.waiting_adapters()) if self.fixed.waiting_adapters is None else self.fixed.waiting_adapters
        now = ",".join(running), ",".join(waiting)
        self._loras[now] = wall_time
        self._loras.move_to_end(now)
        if len(self._loras) > LORA_HISTORY:
            self._loras.popitem(last=False)
        most = self.engine.settings.max_loras
        yield from _family("vllm:lora_requests_info", "gauge", "Running stats on lora requests.")
        for (active, queued), seen in self._loras.items():
            labels = f'running_lora_adapters="{_escape(active)}",waiting_lora_adapters="{_escape(queued)}"'
            yield f'vllm:lora_requests_info{{max_lora="{most}",{labels}}} {seen!r}'


def _family(name: str, kind: str, text: str) -> tuple[str, str]:
    return f"# HELP {name} {text}", f"# TYPE {name} {kind}"


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _padding(labels: str, size: int) -> Iterator[str]:
    """Give idle histogram families until `size` bytes are reached."""
    idle = Histogram(LATENCY_BUCKETS)
    for name in PADDING_FAMILIES:
        if size <= 0:
            return
        block = "\n".join((*_family(name, "histogram", "Histogram."), *idle.lines(name, labels))) + "\n"
        size -= len(block)
        yield block
    if size > 0:
        name = "http_request_duration_seconds"
        yield "\n".join(_family(name, "histogram", "Duration of HTTP requests in seconds")) + "\n"
    number = 0
    while size > 0:
        block = "\n".join(idle.lines(name, f'handler="/v1/route/{number}",method="POST"')) + "\n"
        size, number = size - len(block), number + 1
        yield block
