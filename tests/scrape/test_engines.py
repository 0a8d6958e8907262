"""Metric specifications, and the engines that are known without configuration."""

from __future__ import annotations

import pytest

from epp.scrape.engines import BUILT_IN, MetricSpec, parse_spec, specs, unescape


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("vllm:num_requests_waiting", MetricSpec("vllm:num_requests_waiting")),
        ("  up  ", MetricSpec("up")),
        ("up{}", MetricSpec("up")),
        ("up{a=b}", MetricSpec("up", {"a": "b"})),
        ('up { a = "b" , c=d, }', MetricSpec("up", {"a": "b", "c": "d"})),
        ('up{a="x, y}",b="\\"q\\"\\n"}', MetricSpec("up", {"a": "x, y}", "b": '"q"\n'})),
        ('up{a=""}', MetricSpec("up", {"a": ""})),
    ],
)
def test_a_specification_is_read(text: str, expected: MetricSpec) -> None:
    """A name with optional label values, quoted or bare, is read as it is meant."""
    assert expected == parse_spec(text)


@pytest.mark.parametrize("text", ["", "   ", "9up", "up{", "up}", "up{a}", "up{a=}", "up{a=b c=d}", "up{=b}", "a b", "up{a=b}x"])
def test_a_bad_specification_is_refused_by_name(text: str) -> None:
    """What is not a specification raises, and the message repeats it."""
    with pytest.raises(ValueError, match="not a") as refused:
        parse_spec(text)
    assert repr(text.strip()) in str(refused.value) or repr(text) in str(refused.value)


def test_empty_specifications_read_nothing() -> None:
    """An empty text among alternatives names no metric."""
    assert specs("", " ", "up") == (MetricSpec("up"),)


def test_escapes_of_label_values() -> None:
    """The three escapes of the text format are undone, once."""
    assert unescape(r"a\\n\"b\"\n") == 'a\\n"b"\n'


def test_every_built_in_engine_can_be_recognised() -> None:
    """Each built-in engine has waiting and running metrics, and no two share their names."""
    waiting = [engine.waiting[0].name for engine in BUILT_IN.values()]
    assert list(BUILT_IN) == ["vllm", "sglang", "trtllm-serve", "triton-tensorrt-llm", "triton"]
    assert len(set(waiting)) == len(waiting)
    assert all(engine.running for engine in BUILT_IN.values())
