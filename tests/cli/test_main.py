from __future__ import annotations

import subprocess
import sys

import pytest

from epp.cli.main import COMMANDS, main, missing


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m epp` with these arguments."""
    return subprocess.run([sys.executable, "-m", "epp", *arguments], capture_output=True, text=True, check=False, timeout=60)


def test_help_names_every_command() -> None:
    """Also without arguments."""
    text = run("--help").stdout
    assert [name for name in COMMANDS if name not in text] == []
    assert "serve" in (run().stdout + run().stderr)


def test_help_imports_nothing_heavy() -> None:
    """It is quick because numpy, gRPC and Envoy's messages stay out."""
    heavy = ("numpy", "grpc", "envoy_data_plane", "aiohttp", "pydantic", "structlog")
    code = (
        "import sys\nfrom epp.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        f"print([name for name in {heavy!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr.strip() == "[]"


def test_the_version_is_told() -> None:
    """As installed."""
    done = run("--version")
    assert done.returncode == 0
    assert done.stdout.strip()[0].isdigit()


def test_an_unknown_command_is_refused() -> None:
    """With exit code 2, as any wrong command line."""
    done = run("sevre")
    assert done.returncode == 2
    assert "sevre" in done.stderr


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_help(name: str) -> None:
    """Its module loads, and typer understands its options."""
    done = run(name, "--help")
    assert done.returncode == 0, done.stderr
    assert "--help" in done.stdout


def test_a_missing_package_is_named_with_what_to_install() -> None:
    """Of an extra, or of the product itself."""
    error = ModuleNotFoundError("no", name="envoy_data_plane.envoy")
    assert missing("envoy", error).endswith("pip install 'endpoint-picker[envoy]'")
    assert "'msgspec'" in missing("serve", ModuleNotFoundError("no", name="msgspec"))


def test_the_command_is_the_first_word_that_is_no_option(capsys: pytest.CaptureFixture[str]) -> None:
    """Later words that are names of commands change nothing."""
    with pytest.raises(SystemExit) as caught:
        main(["check", "serve"])
    assert caught.value.code == 1
    assert "serve: cannot be read" in capsys.readouterr().err
