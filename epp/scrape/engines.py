"""What each model server calls its metrics. Pure data, and the syntax `name{label=value,…}` it is written in.

An engine is a row of metric specs; where several specs stand for one signal, the first that the page has is used, so
that older releases of a server stay readable. This module has never seen a page.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

_SPEC = re.compile(r"\s*([a-zA-Z_:][a-zA-Z0-9_:]*)\s*(?:\{(.*)\})?\s*", re.DOTALL)
_PAIR = re.compile(r'\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^",{}=\s]+))\s*(?:,|$)')
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """A metric's name and the label values its samples must have."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)


def unescape(text: str) -> str:
    r"""Undo the escapes of a label value: `\\`, `\"` and `\n`."""
    return _ESCAPE.sub(lambda found: "\n" if found[1] == "n" else found[1], text) if "\\" in text else text


def parse_spec(text: str) -> MetricSpec:
    """Read `name` or `name{label=value,label="value"}`; raise ValueError saying what is wrong."""
    found = _SPEC.fullmatch(text)
    if found is None:
        msg = f"not a metric specification: {text!r}; write name or name{{label=value}}"
        raise ValueError(msg)
    labels: dict[str, str] = {}
    rest, position = found[2] or "", 0
    while rest[position:].strip():
        pair = _PAIR.match(rest, position)
        if pair is None:
            msg = f"not a label pair: {rest[position:].strip()!r} in {text!r}; write label=value"
            raise ValueError(msg)
        labels[pair[1]] = unescape(pair[2]) if pair[3] is None else pair[3]
        position = pair.end()
    return MetricSpec(found[1], labels)


def specs(*texts: str) -> tuple[MetricSpec, ...]:
    """Read alternatives, first choice first; an empty text names none."""
    return tuple(parse_spec(text) for text in texts if text.strip())


@dataclass(frozen=True, slots=True)
class Engine:
    """One kind of model server, told by the names of its metrics.

    `cache_info` is an info-style metric whose labels `block_size_label` and `num_blocks_label` hold numbers; servers
    that have gauges instead fill `block_size` and `num_blocks`. `custom` maps attribute keys to specs.
    """

    name: str
    waiting: tuple[MetricSpec, ...] = ()
    running: tuple[MetricSpec, ...] = ()
    kv_usage: tuple[MetricSpec, ...] = ()
    lora: tuple[MetricSpec, ...] = ()
    cache_info: tuple[MetricSpec, ...] = ()
    block_size_label: str = "block_size"
    num_blocks_label: str = "num_gpu_blocks"
    block_size: tuple[MetricSpec, ...] = ()
    num_blocks: tuple[MetricSpec, ...] = ()
    custom: Mapping[str, MetricSpec] = field(default_factory=dict)

    @property
    def core(self) -> tuple[tuple[MetricSpec, ...], ...]:
        """The signals an engine is recognised by."""
        return self.waiting, self.running, self.kv_usage

    @property
    def names(self) -> frozenset[str]:
        """Every metric name this engine reads."""
        scalars = (*self.core, self.lora, self.cache_info, self.block_size, self.num_blocks, tuple(self.custom.values()))
        return frozenset(spec.name for alternatives in scalars for spec in alternatives)


_BLOCKS = "nv_trt_llm_kv_cache_block_metrics"
_REQUESTS = "nv_trt_llm_request_metrics"

#: The engines known without configuration. Where two fit a page equally, the earlier one is taken.
BUILT_IN: Mapping[str, Engine] = MappingProxyType(
    {
        engine.name: engine
        for engine in (
            Engine(
                "vllm",
                waiting=specs("vllm:num_requests_waiting"),
                running=specs("vllm:num_requests_running"),
                kv_usage=specs("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
                lora=specs("vllm:lora_requests_info"),
                cache_info=specs("vllm:cache_config_info"),
            ),
            Engine(
                "sglang",
                waiting=specs("sglang:num_queue_reqs"),
                running=specs("sglang:num_running_reqs"),
                kv_usage=specs("sglang:token_usage"),
                cache_info=specs("sglang:cache_config_info"),
                block_size_label="page_size",
                num_blocks_label="num_pages",
            ),
            Engine(
                "trtllm-serve",
                waiting=specs("trtllm_num_requests_waiting"),
                running=specs("trtllm_num_requests_running"),
                kv_usage=specs("trtllm_kv_cache_utilization"),
                block_size=specs("trtllm_kv_cache_tokens_per_block"),
                num_blocks=specs("trtllm_kv_cache_max_blocks"),
            ),
            Engine(
                "triton-tensorrt-llm",
                waiting=specs(f"{_REQUESTS}{{request_type=waiting}}"),
                running=specs(f"{_REQUESTS}{{request_type=scheduled}}"),
                kv_usage=specs(f"{_BLOCKS}{{kv_cache_block_type=fraction}}"),
                block_size=specs(f"{_BLOCKS}{{kv_cache_block_type=tokens_per}}"),
                num_blocks=specs(f"{_BLOCKS}{{kv_cache_block_type=max}}"),
            ),
            Engine(
                "triton",
                waiting=specs("nv_inference_pending_request_count"),
                # A counter of executions, which the reference reads as a gauge too: it only grows, so it says little.
                running=specs("nv_inference_exec_count"),
            ),
        )
    }
)
