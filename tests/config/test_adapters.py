from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from epp.config.adapters import AdapterMap, parse_adapters
from epp.config.problems import ConfigErrors
from epp.errors import ConfigError

CONFIG_MAPS = """
apiVersion: v1
kind: ConfigMap
metadata: {name: one, labels: {inference.networking.k8s.io/bbr-managed: "true"}}
data:
  baseModel: llama
  adapters: |
    - sql
    - poetry
---
apiVersion: v1
kind: ConfigMap
data: {baseModel: llama, adapters: "[more]"}
---
kind: List
items:
- kind: ConfigMap
  data: {baseModel: qwen, adapters: "- code"}
- kind: ConfigMap
  data: {baseModel: alone}
---
mistral: [law, medicine]
bare:
"""


def errors(text: str) -> list[tuple[int | None, str | None, str]]:
    """Give line, key and message of every error."""
    with pytest.raises(ConfigError) as caught:
        parse_adapters(text, "a.yaml")
    error = caught.value
    return [(one.line, one.key, one.message) for one in (error.errors if isinstance(error, ConfigErrors) else [error])]


def test_adapters_lead_to_their_base_and_a_base_to_itself() -> None:
    """In both forms, mixed in one file; a base may have its adapters in several places."""
    found = parse_adapters(CONFIG_MAPS, "a.yaml")
    names = ["sql", "poetry", "more", "llama", "code", "qwen", "alone", "law", "medicine", "mistral", "bare"]
    bases = ["llama", "llama", "llama", "llama", "qwen", "qwen", "alone", "mistral", "mistral", "mistral", "bare"]
    assert [found.base_of(name) for name in names] == bases
    assert len(found) == len(names)


def test_an_unknown_name_has_no_base() -> None:
    """The empty text, as the body based router writes it."""
    assert parse_adapters("", "a.yaml").base_of("x") == ""
    assert AdapterMap().base_of("x") == ""


@pytest.mark.parametrize(
    ("text", "line", "key", "message"),
    [
        ("a: [x]\nb: [y, x]\n", 2, "b[1]", "'x' is an adapter of 'a' already (line 1)"),
        ("a: [x, x]\n", 1, "a[1]", "every name may stand once"),
        ("a: [a]\n", 1, "a[0]", "'a' is a base model already"),
        ("a: [b]\nb: [c]\n", 2, "b", "'b' is an adapter of 'a' already"),
        ("a: x\n", 1, "a", "must be a list"),
        ("a:\n- x\n- 5\n", 3, "a[1]", "must be a name, not 5"),
        ("a: ['']\n", 1, "a[0]", "must be a name"),
        ("- a\n", 1, None, "must be a mapping"),
        ("kind: ConfigMap\ndata: {adapters: '[a]'}\n", 2, "data.baseModel", "is required"),
        ("data:\n  baseModel: a\n  adapters: '{b: c}'\n", 3, "data.adapters", "must be a list"),
        ("data:\n  baseModel: a\n  adapters: '['\n", 3, "data.adapters", "not YAML"),
        ("kind: List\nitems:\n- 5\n", 3, "items[0]", "has no data"),
        ("a: [\n", 2, None, "not YAML"),
    ],
)
def test_an_error_names_its_line(text: str, line: int, key: str | None, message: str) -> None:
    """Also across documents and forms."""
    found = errors(text)
    assert [(one[0], one[1]) for one in found] == [(line, key)]
    assert message in found[0][2]


def test_errors_of_all_documents_are_told_together() -> None:
    """With lines of the file."""
    assert [line for line, _, _ in errors("a: [x]\n---\nb: [x]\n---\nc: 5\n")] == [3, 5]


@given(st.lists(st.lists(st.text("abcdefgh", min_size=1, max_size=3), min_size=1, max_size=4), max_size=5))
def test_a_map_is_accepted_exactly_when_names_are_unique(groups: list[list[str]]) -> None:
    """And then every name leads to the base of its group."""
    names = [name for group in groups for name in group]
    text = yaml.safe_dump({group[0]: group[1:] for group in groups}) if groups else ""
    bases = [group[0] for group in groups]
    if len(set(names)) == len(names):
        found = parse_adapters(text, "a.yaml")
        assert [found.base_of(name) for group in groups for name in group] == [group[0] for group in groups for _ in group]
    elif len(set(bases)) == len(bases):
        assert errors(text)
