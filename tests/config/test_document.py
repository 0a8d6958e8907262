from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.config.document import Document, dotted, read_document, read_documents
from epp.errors import ConfigError


def refused(text: str) -> ConfigError:
    """Give the error that reading `text` raises."""
    with pytest.raises(ConfigError) as caught:
        read_document(text, "c.yaml")
    return caught.value


def test_every_key_and_item_has_its_line() -> None:
    """Keys have the key's line, items their own, whatever the style."""
    document = read_document("a: 1\nb:\n- x\n- {c: 2,\n   d: 3}\n", "c.yaml")
    assert document.value == {"a": 1, "b": ["x", {"c": 2, "d": 3}]}
    assert [document.line(path) for path in [("a",), ("b",), ("b", 0), ("b", 1), ("b", 1, "c"), ("b", 1, "d")]] == [
        1, 2, 3, 4, 4, 5,
    ]  # fmt: skip


def test_what_is_not_there_has_the_line_of_what_is_around_it() -> None:
    """An error about a missing key points to where it belongs."""
    document = read_document("\n\nplugins:\n- name: a\n", "c.yaml")
    assert document.line(("plugins", 0, "type")) == 4
    assert document.line(("nothing",)) == 3
    assert Document("none", {}).line(("a",)) is None


def test_a_key_that_stands_twice_is_refused_with_both_lines() -> None:
    """Silently keeping the last one would hide a mistake."""
    error = refused("a:\n  b: 1\n  c: 2\n  b: 3\n")
    assert (error.file, error.line, error.key) == ("c.yaml", 4, "a.b")
    assert "first in line 2" in error.message


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("on", "on"), ("yes", "yes"), ("true", True), ("False", False), ("~", None), ("null", None), ("1", 1), ("-7", -7),
        ("0x1f", 31), ("0o17", 15), ("017", 17), ("1e3", 1000.0), ("1.5", 1.5), (".5", 0.5), ("1:30", "1:30"),
        ("2024-01-02", "2024-01-02"), ('"1"', "1"), ("1_000", "1_000"), ("-.inf", float("-inf")), ("!!str 5", "5"),
        ("1m30s", "1m30s"),
    ],
)  # fmt: skip
def test_scalars_are_those_of_yaml_1_2(text: str, value: Any) -> None:
    """No `on` that turns true, no date, no sexagesimal number."""
    found = read_document(f"a: {text}", "c.yaml").value["a"]
    assert found == value
    assert type(found) is type(value)


def test_a_nan_is_read_as_one() -> None:
    """It is the schema that refuses it."""
    found = read_document("a: .NaN", "c.yaml").value["a"]
    assert found != found  # noqa: PLR0124 - that is what a NaN is


def test_anchors_and_merges_are_filled_in() -> None:
    """A key beside a merge wins over it, the first of several merges over the next."""
    text = "a: &a {x: 1, y: 1}\nb: &b {y: 2, z: 2}\nc:\n  <<: [*a, *b]\n  x: 3\nd: *a\n"
    value = read_document(text, "c.yaml").value
    assert value["c"] == {"x": 3, "y": 1, "z": 2}
    assert value["d"] == {"x": 1, "y": 1}


def exploding() -> str:
    """Give a text whose anchors make nine times as much of it in each of nine lines."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [*a]", "[" * 5000, "a: {<<: 5}", "? [a, b]\n: c", "a: [1", "a: b: c", "\ta: 1", "a: *nobody", "a: \x07",
        "a: !!int x", "a: 1\n---\nb: 2", "a: " + "9" * 6000, exploding(), "x" * (5 * 1024 * 1024),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_an_error_of_the_file(text: str) -> None:
    """Broken, recursive, exploding or absurd: the error is ours and names the file."""
    assert refused(text).file == "c.yaml"


def test_a_syntax_error_names_its_line() -> None:
    """The parser's own mark is kept."""
    assert refused("a: 1\nb: [1, 2\nc: 3\n").line in (2, 3)


def test_a_second_document_is_refused_where_it_starts() -> None:
    """Half of the file would be ignored."""
    assert refused("a: 1\n---\nb: 2\n").line == 3


def test_an_empty_text_is_an_empty_document() -> None:
    """Comments alone are empty too."""
    for text in ("", "# nothing\n", "---\n"):
        assert read_document(text, "c.yaml").value is None


def test_a_byte_order_mark_is_left_out() -> None:
    """Some editors write one."""
    assert read_document("\ufeffa: 1", "c.yaml").value == {"a": 1}


def test_several_documents_have_lines_of_the_file() -> None:
    """Lines count from the top of the file, not of the document."""
    first, second = read_documents("a: 1\n---\nb: 2\n", "c.yaml")
    assert (first.line(("a",)), second.line(("b",))) == (1, 3)


def test_a_path_is_written_with_dots_and_brackets() -> None:
    """As people write it."""
    assert dotted(("plugins", 2, "parameters", "threshold")) == "plugins[2].parameters.threshold"
    assert dotted(()) == ""


_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.text("abc \n\"'#:-é", max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abcdef", max_size=4), inner, max_size=4),
    max_leaves=20,
)


@given(_json)
def test_json_is_yaml(value: Any) -> None:
    """What json writes is read unchanged."""
    assert read_document(json.dumps(value), "c.json").value == value


@given(st.text("ab:-[]{}&*!|>'\"#%@`, \n\t?<0.", max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    """Nothing but a ConfigError escapes."""
    with contextlib.suppress(ConfigError):
        assert read_documents(text, "c.yaml")
