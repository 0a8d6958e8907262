"""The endpoints file's text: what is read, what is skipped, what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.discovery.entries import MAX_BYTES, read_entries
from epp.discovery.membership import Entry
from epp.errors import ConfigError

GOOD = """
# written by hand
endpoints:
  - name: a
    namespace: prod
    address: "10.0.0.1"
    port: "8000"
    labels: {llm-d.ai/role: decode, gpu: 4, spot: true, note: null}
  - {name: b, address: "0:0::1", port: 8001}
  - address: model-server.example.com
    port: "8002"
"""


def one(**entry: Any) -> list[str]:
    """Read a file of one entry and give its problems."""
    return [problem.why for problem in read_entries(json.dumps({"endpoints": [entry]}).encode(), "f")[1]]


def test_a_good_file() -> None:
    """IPv4, IPv6 and host names, ports as text or number, labels of any scalar as text."""
    entries, problems = read_entries(GOOD.encode(), "f.yaml")
    assert entries == [
        Entry("10.0.0.1", 8000, "a", "prod", {"llm-d.ai/role": "decode", "gpu": "4", "spot": "true", "note": ""}),
        Entry("::1", 8001, "b"),
        Entry("model-server.example.com", 8002, "model-server.example.com"),
    ]
    assert problems == []


def test_json_is_read_too() -> None:
    """The same as JSON, tabs and all."""
    text = '{\n\t"endpoints": [\n\t\t{"name": "a", "address": "10.0.0.1", "port": "8000"}\n\t]\n}'
    assert read_entries(text.encode(), "f.json") == ([Entry("10.0.0.1", 8000, "a")], [])


def test_bad_entries_are_skipped_and_told_apart() -> None:
    """Each bad entry is named by place, name, line and reason; the others stay."""
    text = """endpoints:
  - {name: a, address: 10.0.0.1, port: 8000}
  - name: b
    address: 10.0.0.256
    port: 8000
  - {name: c, address: 10.0.0.3, port: 70000}
  - just text
  - {name: d, address: 10.0.0.4, port: 8000, lables: {x: y}}
"""
    entries, problems = read_entries(text.encode(), "f")
    assert [entry.name for entry in entries] == ["a", "d"]
    assert [(problem.entry, problem.line) for problem in problems] == [
        ("endpoints[1] 'b'", 3),
        ("endpoints[2] 'c'", 6),
        ("endpoints[3]", 7),
        ("endpoints[4] 'd'", 8),
    ]
    assert [problem.why for problem in problems] == [
        "skipped: `address` '10.0.0.256' is neither an IP address nor a host name",
        "skipped: `port` 70000 is not a number from 1 to 65535",
        "skipped: an entry has name, namespace, address, port, labels; this is 'just text'",
        "unknown key 'lables' is ignored; did you mean 'labels'?",
    ]


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ({"port": 1}, "`address` is missing"),
        ({"address": 7, "port": 1}, "bad `address` 7"),
        ({"address": "", "port": 1}, "bad `address` ''"),
        ({"address": "a b", "port": 1}, "neither an IP address nor a host name"),
        ({"address": "10.0.0.1"}, "`port` is missing"),
        ({"address": "10.0.0.1", "port": "http"}, "`port` 'http' is not"),
        ({"address": "10.0.0.1", "port": True}, "`port` True is not"),
        ({"address": "10.0.0.1", "port": 1.5}, "`port` 1.5 is not"),
        ({"address": "10.0.0.1", "port": "٣"}, "is not a number"),
        ({"address": "10.0.0.1", "port": 1, "labels": ["a"]}, "`labels` must be"),
        ({"address": "10.0.0.1", "port": 1, "labels": {"a": ["b"]}}, "label 'a' must be text"),
        ({"address": "10.0.0.1", "port": 1, "name": ["a"]}, "`name` must be text"),
    ],
)
def test_what_is_wrong_with_an_entry(entry: dict[str, Any], why: str) -> None:
    """Each mistake has its own sentence."""
    problems = one(**entry)
    assert len(problems) == 1
    assert why in problems[0]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"", "no `endpoints:` list"),
        (b"[]", "no `endpoints:` list"),
        (b"endpoint: []", "no `endpoints:` list"),
        (b"endpoints: {}", "must be a list"),
        (b"endpoints: 5", "must be a list"),
        (b"endpoints:\n  - {a\n", "not valid YAML"),
        (b"endpoints: [*nobody]", "not valid YAML"),
        (b"endpoints: !!python/object:os.system []", "not valid YAML"),
        (b"\xff binary \x00", "not valid YAML"),
        (b'{"endpoints": [', "not valid YAML"),
        (b"endpoints: " + b"[" * 200_000, "nested more than"),
        (b'{"endpoints": ' + b"[" * 200_000, "nested more than"),
        (b"- " * 200_000, "nested more than"),
        (b"? [a]\n: b\n", "not valid YAML"),
        (b"#" * (MAX_BYTES + 1), "larger than"),
    ],
    ids=lambda value: str(value[:20]),
)
def test_a_file_that_is_not_one_is_refused(text: bytes, why: str) -> None:
    """Broken files are errors that name the file, so that the last good one can stay."""
    with pytest.raises(ConfigError, match=why) as refused:
        read_entries(text, "pool.yaml")
    assert refused.value.file == "pool.yaml"


def test_a_broken_line_is_named() -> None:
    """The YAML parser's line is part of the error."""
    with pytest.raises(ConfigError, match=r"^pool\.yaml:2"):
        read_entries(b"endpoints:\n- a: b: c\n", "pool.yaml")


@pytest.mark.parametrize("text", [b"endpoints:", b"endpoints: []", b"endpoints: null", b'{"endpoints": []}'])
def test_an_empty_list_is_an_empty_pool(text: bytes) -> None:
    """No endpoint is a membership, not a mistake."""
    assert read_entries(text, "f") == ([], [])


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_no_bytes_break_the_reader(text: bytes) -> None:
    """Whatever the file holds, there are entries or a ConfigError."""
    for whole in (text, b"endpoints:\n  - " + text):
        try:
            entries, _ = read_entries(whole, "f")
        except ConfigError:
            continue
        assert all(1 <= entry.port <= 65535 and entry.host for entry in entries)
