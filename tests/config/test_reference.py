from __future__ import annotations

import re
from pathlib import Path

import pytest

from epp.config.adapters import parse_adapters
from epp.config.options import flags, spelling
from epp.config.reference import main, page
from epp.config.registry import Registry
from epp.discovery.entries import read_entries


def test_the_page_names_every_type_field_and_flag() -> None:
    """With types, defaults and meanings; classes with several names stand once."""
    registry = Registry()
    text = page(registry)
    for name in registry.names():
        assert f"`{name}`" in text
    for one, _ in flags():
        assert f"| `{spelling(one.name)}` |" in text
    assert "| `defaultRequestTTL` | duration |" in text
    assert "| `maxBytes` | quantity |" in text
    assert "| `plugins` | list of [PluginSpec](#pluginspec) |" in text
    assert "| `onError` | `skip` or `reject` |" in text
    assert "#### `by-label-selector`, `label-selector-filter`" in text
    assert "`precise-prefix-cache-producer`" in text
    assert "| `threshold` | whole number | `128` |" in text


def test_every_table_is_whole() -> None:
    """Each row has as many cells as its head."""
    head = 0
    for line in page(Registry()).splitlines():
        cells = line.replace("\\|", "").count("|")
        if line.startswith("|"):
            head = head or cells
            assert cells == head, line
        else:
            head = 0


def test_nothing_is_without_a_meaning() -> None:
    """Every field of the file, every parameter of every registered type and every flag says what it is."""
    heading, empty = "", []
    for line in page(Registry()).splitlines():
        heading = line if line.startswith("#") else heading
        if line.startswith("|") and line.endswith("|  |"):
            empty.append(f"{heading}: {line}")
    assert empty == []


def test_durations_of_plugins_are_shown_as_durations() -> None:
    """With their unit, though they are held as seconds."""
    text = page(Registry())
    assert text.count("| `interval` | duration | `5s` |") == 2
    assert "| `interval` | duration | `0s` |" in text


def test_the_files_that_are_shown_can_be_read() -> None:
    """The examples of the endpoints file and of both forms of the adapters file, by what reads them when it serves."""
    section = page(Registry()).partition("\n## Files\n")[2].partition("\n## ")[0]
    endpoints, mapping, config_map = re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)
    entries, problems = read_entries(endpoints.encode(), "endpoints.yaml")
    assert problems == []
    assert [(entry.name, entry.host, entry.port, dict(entry.labels)) for entry in entries] == [
        ("a", "10.0.0.1", 8000, {"tier": "gold"}), ("fd00::1", "fd00::1", 8000, {}), ("b", "model-server.example", 8000, {}),
    ]  # fmt: skip
    for text in (mapping, config_map):
        adapters = parse_adapters(text, "adapters.yaml")
        assert {name: adapters.base_of(name) for name in adapters.names} == dict.fromkeys(("llama-3", "sql", "chat"), "llama-3")


def test_types_of_others_are_left_out(types: dict[str, type]) -> None:
    """The page is that of this product, whatever else is installed."""
    assert "#### " not in page(Registry(types))


def test_an_old_page_is_told_and_not_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--check` writes nothing."""
    file = tmp_path / "configuration.md"
    assert main([str(file), "--check"]) == 1
    assert not file.exists()
    assert main([str(file)]) == 0
    assert main(["--check", str(file)]) == 0
    file.write_text("old")
    assert main([str(file), "--check"]) == 1
    assert file.read_text() == "old"
    assert "out of date" in capsys.readouterr().err
