"""A Prometheus page read into signals: every engine, every oddity of the format."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.endpoints.pool import Signals
from epp.scrape import parse
from epp.scrape.engines import BUILT_IN, Engine, parse_spec, specs
from epp.scrape.parse import PageReader

READER = PageReader(BUILT_IN.values(), "vllm")
NONE = frozenset[str]()

VLLM = b"""# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
# HELP vllm:num_requests_waiting Number of requests waiting.
vllm:num_requests_waiting{engine="0",model_name="m"} 1.0
vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 77.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.35
vllm:lora_requests_info{max_lora="4",running_lora_adapters="a, b",waiting_lora_adapters="c"} 1.7e+09
vllm:cache_config_info{block_size="16",engine="0",num_gpu_blocks="1234"} 1.0
vllm:time_to_first_token_seconds_bucket{engine="0",le="0.1"} 5.0
"""


def signals(page: bytes | str, engine: str | None = None, reader: PageReader = READER) -> Signals:
    """Read a page that must be readable."""
    reading = reader.read(page if isinstance(page, bytes) else page.encode(), engine)
    assert reading is not None
    return reading.signals


def test_a_vllm_page() -> None:
    """Every signal of vLLM is found, and look-alike names are not taken for it."""
    assert signals(VLLM) == Signals(
        waiting=1.0,
        running=3.0,
        kv_usage=0.35,
        block_size=16.0,
        num_blocks=1234.0,
        lora_max=4.0,
        adapters=frozenset({"a", "b"}),
        waiting_adapters=frozenset({"c"}),
    )


@pytest.mark.parametrize(
    ("engine", "page", "expected"),
    [
        (
            "sglang",
            (
                'sglang:num_queue_reqs{model_name="m"} 2\nsglang:num_running_reqs 4\nsglang:token_usage 0.5\n'
                'sglang:cache_config_info{page_size="64",num_pages="100"} 1\n'
            ),
            Signals(waiting=2, running=4, kv_usage=0.5, block_size=64, num_blocks=100),
        ),
        (
            "trtllm-serve",
            (
                "trtllm_num_requests_waiting 2\ntrtllm_num_requests_running 4\ntrtllm_kv_cache_utilization 0.5\n"
                "trtllm_kv_cache_tokens_per_block 32\ntrtllm_kv_cache_max_blocks 100\n"
            ),
            Signals(waiting=2, running=4, kv_usage=0.5, block_size=32, num_blocks=100),
        ),
        (
            "triton-tensorrt-llm",
            (
                'nv_trt_llm_request_metrics{model="m",request_type="waiting",version="1"} 2\n'
                'nv_trt_llm_request_metrics{model="m",request_type="scheduled",version="1"} 4\n'
                'nv_trt_llm_request_metrics{model="m",request_type="max",version="1"} 512\n'
                'nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="fraction",model="m"} 0.5\n'
                'nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="tokens_per",model="m"} 32\n'
                'nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="max",model="m"} 100\n'
                "nv_inference_pending_request_count 9\nnv_inference_exec_count 1000\n"
            ),
            Signals(waiting=2, running=4, kv_usage=0.5, block_size=32, num_blocks=100),
        ),
        (
            "triton",
            (
                'nv_inference_pending_request_count{model="a"} 2\nnv_inference_pending_request_count{model="b"} 1\n'
                "nv_inference_exec_count 4\n"
            ),
            Signals(waiting=3, running=4),
        ),
    ],
)
def test_other_engines_are_recognised_by_their_names(engine: str, page: str, expected: Signals) -> None:
    """A page without vLLM's names is read as the engine whose names it has: mixed pools need no labels."""
    reading = READER.read(page.encode())
    assert reading is not None
    assert (reading.engine, reading.signals) == (engine, expected)


def test_a_label_decides_the_engine() -> None:
    """A page with the names of two engines is read as the endpoint is labelled, and as the default without a label."""
    page = b"vllm:num_requests_waiting 1\nsglang:num_queue_reqs 2\nsglang:num_running_reqs 3\n"
    assert signals(page, "sglang").waiting == 2
    assert signals(page).waiting == 1
    assert signals(page, "no-such-engine").waiting == 1
    assert READER.read(page, "trtllm-serve") is None


def test_older_names_are_read_where_the_newer_are_missing() -> None:
    """Before 0.10 vLLM calls KV usage `gpu_cache_usage_perc`; where both are there, the newer name counts."""
    assert signals(b"vllm:gpu_cache_usage_perc 0.2\n").kv_usage == 0.2
    assert signals(b"vllm:gpu_cache_usage_perc 0.2\nvllm:kv_cache_usage_perc 0.4\n").kv_usage == 0.4


def test_several_engines_on_one_port_are_one_endpoint() -> None:
    """Queues add up, the fullest cache counts, blocks add up, and LoRA names unite over the newest sample of each."""
    found = signals(
        'vllm:num_requests_waiting{engine="0"} 3\nvllm:num_requests_waiting{engine="1"} 4\n'
        'vllm:num_requests_running{engine="0"} 1\nvllm:num_requests_running{engine="1"} 2\n'
        'vllm:kv_cache_usage_perc{engine="0"} 0.9\nvllm:kv_cache_usage_perc{engine="1"} 0.1\n'
        'vllm:cache_config_info{block_size="16",engine="0",num_gpu_blocks="10"} 1\n'
        'vllm:cache_config_info{block_size="16",engine="1",num_gpu_blocks="20"} 1\n'
        'vllm:lora_requests_info{engine="0",max_lora="2",running_lora_adapters="old",waiting_lora_adapters=""} 100\n'
        'vllm:lora_requests_info{engine="0",max_lora="2",running_lora_adapters="a",waiting_lora_adapters="w"} 200\n'
        'vllm:lora_requests_info{engine="1",max_lora="2",running_lora_adapters="b",waiting_lora_adapters=""} 150\n'
        'vllm:lora_requests_info{engine="1",max_lora="2",running_lora_adapters="x",waiting_lora_adapters=""} 120\n'
    )
    assert (found.waiting, found.running, found.kv_usage) == (7, 3, 0.9)
    assert (found.block_size, found.num_blocks) == (16, 30)
    assert (found.lora_max, found.adapters, found.waiting_adapters) == (2, frozenset("ab"), frozenset("w"))


def test_no_lora_sample_means_no_adapter() -> None:
    """The metric is shown only once an adapter was loaded: a readable page without it has none, so a restart clears."""
    found = signals(b"vllm:num_requests_waiting 0\n")
    assert (found.adapters, found.waiting_adapters, found.lora_max) == (NONE, NONE, None)
    assert signals(b"sglang:num_queue_reqs 0\n").adapters is None


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("vllm:num_requests_waiting 5", 5.0),
        ("vllm:num_requests_waiting\t5\r", 5.0),
        ("vllm:num_requests_waiting  5 1712345678901", 5.0),
        ("vllm:num_requests_waiting 5e+00", 5.0),
        ("vllm:num_requests_waiting{} 5", 5.0),
        ('vllm:num_requests_waiting{a="}"} 5', 5.0),
        ('vllm:num_requests_waiting{a="\\"} 9",b="\\\\"} 5', 5.0),
        ('vllm:num_requests_waiting{a="ü,=\\n",} 5 # {trace_id="1"} 7', 5.0),
        ('vllm:num_requests_waiting{a="x"}5', 5.0),
        ("vllm:num_requests_waiting NaN", None),
        ("vllm:num_requests_waiting +Inf", None),
        ("vllm:num_requests_waiting -1", None),
        ("vllm:num_requests_waiting", None),
        ("vllm:num_requests_waiting ", None),
        ("vllm:num_requests_waiting five", None),
        ('vllm:num_requests_waiting{a="5', None),
        ("vllm:num_requests_waiting{a=5 5", None),
        ("vllm:num_requests_waiting:more 5", None),
        ("#vllm:num_requests_waiting 5", None),
    ],
)
def test_one_line(line: str, expected: float | None) -> None:
    """A sample is read in every form the format allows; a broken one is skipped, and its neighbours are kept."""
    page = f"{line}\nvllm:num_requests_running 1\n# EOF\n"
    found = signals(page)
    assert (found.waiting, found.running) == (expected, 1.0)
    assert signals(f"# first\n{page}") == found


def test_broken_series_do_not_spoil_the_sum() -> None:
    """Of several series the readable ones count."""
    assert signals(b'vllm:num_requests_waiting{engine="0"} NaN\nvllm:num_requests_waiting{engine="1"} 2\n').waiting == 2


def test_kv_usage_above_one_stays() -> None:
    """A fraction a little above 1 is not mistaken for a percentage."""
    assert signals(b"vllm:kv_cache_usage_perc 1.02\n").kv_usage == 1.02


@pytest.mark.parametrize("blocks", ["None", "", "0", "-3", "inf", "many"])
def test_cache_labels_that_are_no_numbers_are_absent(blocks: str) -> None:
    """`num_gpu_blocks="None"`, as vLLM writes before it knows, leaves the number of blocks unknown."""
    found = signals(f'vllm:cache_config_info{{block_size="16",num_gpu_blocks="{blocks}"}} 1\n')
    assert (found.block_size, found.num_blocks) == (16, None)


def test_a_page_without_wanted_metrics_is_no_reading() -> None:
    """Nothing wanted found is told apart from idle."""
    for page in (
        b"",
        b"\n",
        b"<html>vllm:num_requests_waiting 1</html>",
        b"go_goroutines 7\n",
        b"vllm:num_requests_waiting NaN\n",
    ):
        assert READER.read(page) is None


def test_own_engines_and_custom_metrics() -> None:
    """A configured engine is read with label selectors; custom metrics take the newest sample, the first of equals."""
    own = Engine(
        "own",
        waiting=specs("own_requests{state=queued}"),
        running=specs("own_requests{state=running}"),
        custom={"gold": parse_spec('depth{tier="gold"}'), "any": parse_spec("depth"), "absent": parse_spec("nothing")},
    )
    reader = PageReader([own, *BUILT_IN.values()], "vllm")
    page = (
        'own_requests{state="queued"} 1\nown_requests{state="running"} 2\nown_requests{state="done"} 9\n'
        'depth{tier="silver"} 7\ndepth{tier="gold"} 8\ndepth{tier="gold"} 9 5\n'
    )
    reading = reader.read(page.encode())
    assert reading is not None
    assert reading.engine == "own"
    assert reading.signals == Signals(waiting=1, running=2, custom={"gold": 9, "any": 9})


def test_names_that_begin_alike_are_told_apart() -> None:
    """A metric name that is the beginning of another one is found beside it."""
    own = Engine("own", waiting=specs("a"), running=specs("ab"), kv_usage=specs("abc_d"), custom={"x": parse_spec("abd")})
    found = PageReader([own], "own").read(b"abc_d 0.5\nab 2\na 1\nabd 4\nabc 9\n")
    assert found is not None
    assert found.signals == Signals(waiting=1, running=2, kv_usage=0.5, custom={"x": 4})


def test_an_engine_without_metrics_reads_nothing() -> None:
    """An engine whose specs are all empty matches no line at all."""
    assert PageReader([Engine("none")], "none").read(VLLM) is None


def test_an_endless_page_is_read_in_part() -> None:
    """No more than MAX_SAMPLES wanted lines are read, and overlong lines not at all."""
    page = b"vllm:num_requests_waiting 1\n" * (parse.MAX_SAMPLES + 50)
    assert signals(page).waiting <= parse.MAX_SAMPLES + 1  # type: ignore[operator]
    long = b'vllm:num_requests_waiting{a="' + b"x" * parse.MAX_LINE + b'"} 5\nvllm:num_requests_running 1\n'
    assert (signals(long).waiting, signals(long).running) == (None, 1.0)


@given(st.binary(max_size=300), st.integers(0, len(VLLM)))
def test_garbage_never_breaks_reading(garbage: bytes, position: int) -> None:
    """Whatever bytes stand between two lines, the lines stay readable and nothing raises."""
    lines = VLLM.splitlines(keepends=True)
    cut = position % len(lines)
    page = b"".join(lines[:cut]) + b"# " + garbage.replace(b"\n", b" ") + b"\n" + b"".join(lines[cut:])
    assert signals(page) == signals(VLLM)
    READER.read(garbage)
    READER.read(b"vllm:num_requests_waiting" + garbage)
    READER.read(VLLM[:position] + garbage + VLLM[position:])


@given(
    st.dictionaries(st.integers(0, 9), st.floats(0, 1e9), min_size=1),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
)
def test_waiting_is_the_sum_whatever_the_labels_hold(values: dict[int, float], text: str) -> None:
    """Any label value, escaped as the format wants, leaves the sum right."""
    quoted = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    page = "".join(f'vllm:num_requests_waiting{{note="{quoted}",engine="{n}"}} {value!r}\n' for n, value in values.items())
    waiting = signals(page).waiting
    assert waiting is not None
    assert math.isclose(waiting, math.fsum(values.values()))
    named = replace(BUILT_IN["vllm"], waiting=(replace(parse_spec("vllm:num_requests_waiting"), labels={"note": text}),))
    assert signals(page, reader=PageReader([named], "vllm")).waiting == waiting
