from __future__ import annotations

from pathlib import Path

import pytest
import typer

from epp.cli.check import check

HEAD = "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\n"


def test_the_defaults_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """Profiles, plugins in order with their weights, and what was added."""
    check()
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    start = lines.index("profile default")
    assert lines[start + 1 : start + 5] == [
        "scorer queue-scorer weight 2", "scorer kv-cache-utilization-scorer weight 2", "scorer prefix-cache-scorer weight 3",
        "picker max-score-picker (added)",
    ]  # fmt: skip
    producers = lines.index("producers, in order")
    assert lines[producers + 1 : producers + 3] == [
        "producer approx-prefix-cache-producer (added)", "producer inflight-load-producer (added)",
    ]  # fmt: skip


def test_a_configuration_is_shown_with_parameters_and_warnings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Parameters that differ from their defaults; long lines are not broken."""
    file = tmp_path / "c.yaml"
    file.write_text(
        HEAD + "featureGates: [flowControl]\nplugins:\n"
        "- {name: load, type: load-aware-scorer, parameters: {threshold: 64}}\n"
        "- {type: decode-filter}\n"
        "- {type: file-discovery, parameters: {path: e.yaml}}\n"
        "schedulingProfiles:\n- name: one\n  plugins:\n  - {pluginRef: load, weight: 0.5}\n"
        "  - {pluginRef: decode-filter, onError: reject}\n"
        "dataLayer: {discovery: {pluginRef: file-discovery}}\n"
    )
    check(str(file))
    text = capsys.readouterr().out
    assert '  scorer     load (load-aware-scorer)  weight 0.5  {"threshold": 64}\n' in text
    assert "decode-filter  onError: reject" in text
    assert 'discovery  file-discovery  {"path": "e.yaml"}' in text
    assert f"  {file}:3: featureGates[0]: accepted without effect" in text


def test_errors_are_shown_with_their_lines_and_exit_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On stderr, so that a script sees them."""
    file = tmp_path / "c.yaml"
    file.write_text(HEAD + "plugins:\n- type: queue-scorrer\n- type: kv-cache\n")
    with pytest.raises(typer.Exit) as caught:
        check(str(file))
    assert caught.value.exit_code == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert f"{file}:4: plugins[0].type: unknown plugin type 'queue-scorrer'; did you mean 'queue-scorer'?" in shown.err
    assert f"{file}:5: plugins[1].type" in shown.err


def test_brackets_in_names_are_shown_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are no markup."""
    file = tmp_path / "c.yaml"
    file.write_text(HEAD + "plugins: [{name: '[red]x', type: queue-scorer}]\n")
    check(str(file))
    assert "[red]x (queue-scorer)" in capsys.readouterr().out
