from __future__ import annotations

from pathlib import Path

import pytest

from epp.config.options import flags, spelling
from epp.config.reference import main, page
from epp.config.registry import Registry


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
