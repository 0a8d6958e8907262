from __future__ import annotations

from pathlib import Path

import pytest

from epp.gateway.process import validate
from epp.gateway.rendered import main, outdated, wirings
from epp.gateway.wiring import command_of

KEPT = Path(__file__).parents[2] / "envoy"


def test_the_kept_files_are_what_is_made() -> None:
    """Nobody edited a rendered file, and nobody changed the rendering without making them again."""
    assert outdated(KEPT) == []
    assert {path.name for path in KEPT.iterdir()} == wirings().keys()


@pytest.mark.parametrize("name", wirings())
def test_a_real_envoy_accepts_them(name: str) -> None:
    """Each file is a configuration Envoy starts with."""
    validate(KEPT / name)


@pytest.mark.parametrize(("name", "wiring"), wirings().items())
def test_each_names_the_command_that_makes_it(name: str, wiring: object) -> None:
    """The first line is the command, whose mode and failure are those of the file's name."""
    first = (KEPT / name).read_text().splitlines()[0]
    assert first == f"# {command_of(wiring)}"  # type: ignore[arg-type]
    mode, failure = name.removesuffix(".yaml").split("-")
    assert f"--mode {mode} --failure {failure}" in first


def test_check_tells_what_is_out_of_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--check` fails naming missing and edited files, and passes once they are written."""
    monkeypatch.chdir(tmp_path)
    assert main(["--check"]) == 1
    assert main([]) == 0
    assert main(["--check"]) == 0
    (tmp_path / "envoy" / "held-open.yaml").write_text("edited")
    capsys.readouterr()
    assert main(["--check"]) == 1
    assert capsys.readouterr().err == "envoy/held-open.yaml is out of date: run scripts/generate\n"


def test_other_arguments_are_refused() -> None:
    """A misspelt option does not rewrite files."""
    assert main(["--chekc"]) == 2
