"""The command line: which commands there are. Only the one that is called is imported, so that help is quick.

A command whose optional packages are missing says what to install.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from epp.errors import ConfigError

#: Name → what it does. The command `name` is the function `name` of the module `epp.cli.name`.
COMMANDS = {
    "serve": "Run the picker.",
    "check": "Show what a configuration makes the picker run, or what is wrong with it.",
    "envoy": "Print an Envoy configuration.",
    "simulate": "Run simulated model servers.",
    "up": "Run Envoy, the picker and simulated model servers on this machine.",
}
DISTRIBUTION = "endpoint-picker"
_EXTRAS = {"envoy": "envoy", "envoy_data_plane": "envoy", "betterproto2": "envoy"}  # top-level module → extra


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    command = next((argument for argument in given if not argument.startswith("-")), "")
    try:
        build(command)(args=given, prog_name="epp")
    except ModuleNotFoundError as error:
        print(f"error: {missing(command, error)}", file=sys.stderr)
        raise SystemExit(2) from None
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None


def build(command: str) -> typer.Typer:
    """Make the application; only `command` can be run, the others have their name and help."""
    app = typer.Typer(
        help="A standalone endpoint picker: Envoy asks it, for every LLM request, which model server should answer.",
        add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="rich",
    )  # fmt: skip
    app.callback(help=app.info.help)(_root)
    for name, summary in COMMANDS.items():
        if name == command:
            module = importlib.import_module(f"epp.cli.{name}")
            kind = getattr(module, "COMMAND_CLASS", TyperCommand)
            app.command(name, cls=kind, short_help=summary)(getattr(module, name))
        else:
            app.command(name, short_help=summary)(_named)
    return app


def _root(
    *,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, help="Print the version.", callback=lambda asked: _version(asked=asked))
    ] = False,
) -> None:
    """Take the options that stand before a command; `--version` has done its work in its callback."""
    del version


def _named() -> None:
    """Stand for a command in the help; `build` puts the real one in its place when it is called."""


def _version(*, asked: bool) -> None:
    if asked:
        print(importlib.metadata.version(DISTRIBUTION))
        raise typer.Exit


def missing(command: str, error: ModuleNotFoundError) -> str:
    """Say which package a command lacks, and how to get it."""
    name = error.name or str(error)
    extra: Any = _EXTRAS.get(name.split(".", 1)[0])
    if extra:
        return f"epp {command} needs the package of {name!r}: pip install '{DISTRIBUTION}[{extra}]'"
    return f"epp {command} needs the Python module {name!r}, which is not installed: pip install --upgrade {DISTRIBUTION}"
