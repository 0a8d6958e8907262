from __future__ import annotations

from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from epp.simulator.engine import Engine, EngineSettings, Sequence
from epp.simulator.metrics import LORA_HISTORY, Histogram, Page
from epp.simulator.options import FixedSignals
from epp.simulator.timing import LinearTiming

Samples = dict[str, list[tuple[dict[str, str], float]]]


def page(padding: int = 0, fixed: FixedSignals | None = None, model: str = "m", **settings: Any) -> Page:
    """Make the page of a new engine."""
    engine = Engine(EngineSettings(**{"num_blocks": 10, "block_size": 4, **settings}), LinearTiming())
    return Page(model, engine, fixed or FixedSignals(), padding)


def samples(text: bytes) -> Samples:
    """Parse a page as Prometheus does; each family appears once."""
    found: Samples = {}
    names = []
    for family in text_string_to_metric_families(text.decode()):
        names.append(family.name)
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    assert len(set(names)) == len(names)
    return found


def value(found: Samples, name: str) -> float:
    """Give the value of a series that is alone in its family and has the labels of vLLM."""
    [(labels, number)] = found[name]
    assert labels == {"model_name": "m", "engine": "0"}
    return number


def test_the_page_shows_the_engine() -> None:
    """Running, waiting, cache usage and counters are the engine's own."""
    shown = page(max_num_seqs=1)
    for _ in range(3):
        shown.engine.submit(Sequence(10, 5), 0.0)
    until = shown.engine.step(0.0).until
    assert until is not None
    shown.engine.step(until)
    found = samples(shown.render(1.0, loras=False))
    assert value(found, "vllm:num_requests_running") == 1
    assert value(found, "vllm:num_requests_waiting") == 2
    assert value(found, "vllm:kv_cache_usage_perc") == 0.3
    assert value(found, "vllm:prompt_tokens_total") == 10
    assert value(found, "vllm:generation_tokens_total") == 1
    assert value(found, "vllm:prefix_cache_queries_total") == 10
    assert value(found, "vllm:prefix_cache_hits_total") == 0


def test_the_cache_is_described() -> None:
    """Block size and number of blocks are labels, as vLLM has them."""
    [(labels, number)] = samples(page().render(1.0, loras=False))["vllm:cache_config_info"]
    assert (labels["block_size"], labels["num_gpu_blocks"], number) == ("4", "10", 1.0)


def test_fixed_figures_hide_the_engine_s() -> None:
    """Each alone, at once, and gone when set to None."""
    fixed = FixedSignals(waiting=7, kv_usage=0.5)
    shown = page(fixed=fixed)
    found = samples(shown.render(1.0, loras=False))
    assert value(found, "vllm:num_requests_waiting") == 7
    assert value(found, "vllm:num_requests_running") == 0
    assert value(found, "vllm:kv_cache_usage_perc") == 0.5
    fixed.waiting, fixed.running = None, 3
    found = samples(shown.render(1.0, loras=False))
    assert value(found, "vllm:num_requests_waiting") == 0
    assert value(found, "vllm:num_requests_running") == 3


def test_adapters_are_labels_and_the_newest_series_is_true() -> None:
    """The value is the time; a past combination keeps the time it was last true."""
    shown = page(max_loras=1)
    for adapter in ("a", "b", "a"):
        shown.engine.submit(Sequence(10, 1, (), adapter), 0.0)
    assert "vllm:lora_requests_info" not in samples(shown.render(99.0, loras=False))
    shown.render(100.0, loras=True)
    shown.engine.step(0.0)
    found = samples(shown.render(101.5, loras=True))["vllm:lora_requests_info"]
    assert found == [
        ({"max_lora": "1", "running_lora_adapters": "", "waiting_lora_adapters": "a,b"}, 100.0),
        ({"max_lora": "1", "running_lora_adapters": "a", "waiting_lora_adapters": "b"}, 101.5),
    ]


def test_past_combinations_are_bounded() -> None:
    """However many adapters come and go, the page does not grow for ever."""
    shown = page()
    for number in range(50):
        shown.fixed.running_adapters = (f"adapter-{number}",)
        found = samples(shown.render(float(number), loras=True))["vllm:lora_requests_info"]
    assert len(found) == LORA_HISTORY
    assert max(found, key=lambda sample: sample[1])[0]["running_lora_adapters"] == "adapter-49"


def test_a_histogram_counts_up_to_each_bound() -> None:
    """Buckets are cumulative and include their bound."""
    histogram = Histogram((1.0, 2.0))
    for number in (0.5, 1.0, 1.5, 9.0):
        histogram.observe(number)
    assert list(histogram.lines("x", 'a="b"')) == [
        'x_bucket{a="b",le="1.0"} 2.0',
        'x_bucket{a="b",le="2.0"} 3.0',
        'x_bucket{a="b",le="+Inf"} 4.0',
        'x_count{a="b"} 4.0',
        'x_sum{a="b"} 12.0',
    ]


def test_padding_makes_the_page_as_large_as_asked() -> None:
    """The padded page still parses, and says the same of the engine."""
    text = page(padding=200).render(1.0, loras=False)
    assert 200 * 1024 <= len(text) < 210 * 1024
    assert value(samples(text), "vllm:num_requests_waiting") == 0


def test_strange_names_are_escaped() -> None:
    """A model's name may hold what the text format has a meaning for."""
    name = 'a"b\\c\nd'
    [(labels, _)] = samples(page(model=name).render(1.0, loras=False))["vllm:num_requests_running"]
    assert labels["model_name"] == name
