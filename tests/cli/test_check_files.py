"""What `epp check` says of files that a configuration names."""

from __future__ import annotations

from pathlib import Path

import pytest

from epp.cli.check import check
from tests.config.conftest import HEAD


def shown(directory: Path, parameters: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Check a configuration in `directory` with these parameters of `file-discovery`, and give what is printed."""
    file = directory / "c.yaml"
    file.write_text(
        HEAD + f"plugins: [{{name: files, type: file-discovery, parameters: {parameters}}}]\n"
        "dataLayer: {discovery: {pluginRef: files}}\n"
    )
    check(str(file))
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("parameters", "then"),
    [("{path: e.yaml}", "epp serve will not start"), ("{path: e.yaml, watchFile: true}", "no endpoints until it comes")],
)
def test_a_missing_endpoints_file_is_warned_of(
    parameters: str, then: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line that names it, beside the configuration, and says what follows; the configuration is right all the same."""
    text = shown(tmp_path, parameters, capsys)
    (line,) = [line for line in text.partition("\nwarnings\n")[2].splitlines() if "e.yaml" in line]
    assert line.startswith(f"  {tmp_path / 'e.yaml'}: there is no such file (path of 'files')")
    assert then in line


def test_a_directory_is_no_endpoints_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It could not be read either."""
    (tmp_path / "sub").mkdir()
    assert f"{tmp_path / 'sub'}: there is no such file" in shown(tmp_path, "{path: sub}", capsys)


def test_a_file_that_is_there_is_not_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Wherever an absolute path points."""
    endpoints = tmp_path / "elsewhere.yaml"
    endpoints.write_text("endpoints: []\n")
    assert "warnings" not in shown(tmp_path, f"{{path: {endpoints}}}", capsys)
