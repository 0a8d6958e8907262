"""`epp serve`: run the picker. Its flags are the fields of `ServeOptions`; what they set in motion is `epp.app`'s."""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import Annotated, Any, ClassVar

import structlog
import typer

from epp.cli import logs
from epp.cli.goflags import GoCommand
from epp.config.duration import parse_bool, parse_duration, parse_size
from epp.config.options import (
    BOOL,
    DURATION,
    INT,
    LIST,
    PORT,
    RETIRED,
    SIZE,
    TEXT,
    Flag,
    ServeOptions,
    default_text,
    flags,
    settle,
    spelling,
    without_effect,
)
from epp.errors import ConfigError

log = structlog.get_logger(__name__)


class ServeCommand(GoCommand):
    """`epp serve` with Go's spellings; flags that the reference retired stop the start, as there."""

    switches = frozenset(one.name for one, flag in flags() if flag.kind == BOOL)
    refused: ClassVar[Mapping[str, str]] = {
        name: f"--{name} is retired: describe the metric in the configuration, core-metrics-extractor, engineConfigs[].{spec}"
        for name, spec in RETIRED.items()
    }


def serve(ctx: typer.Context, **given: Any) -> None:
    """Run the picker: Envoy asks it, for each request, which model server should answer."""
    try:
        options, warnings = settle(ServeOptions(**given))
        level = logs.level_of(options.v, options.zap_log_level)
    except (ConfigError, ValueError) as error:
        raise typer.BadParameter(str(error)) from None
    as_json = logs.is_json(options.log_format, options.zap_encoder)
    logs.configure(json=as_json, level=level)
    for warning in warnings:
        log.warning(warning)
    if ignored := without_effect(ctx.obj or (), options):
        log.warning("accepted, without effect", flags=ignored)
    raise typer.Exit(start(options, as_json=as_json))


def start(options: ServeOptions, *, as_json: bool) -> int:
    """Run the app to its end and give the exit code; what stops the start is said in one line, or in one log entry."""
    from epp import app

    try:
        return _run(app.serve(options))
    except* (ConfigError, OSError) as group:
        failures = list(_leaves(group))
    for error in failures:
        if as_json:
            log.error("cannot start", error=str(error))
        else:
            print(f"error: {error}", file=sys.stderr)
    return 1


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """Give the errors inside a group of groups."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _run(main: Coroutine[Any, Any, int]) -> int:
    try:
        import uvloop
    except ImportError:  # not made for this platform
        return asyncio.run(main)
    return uvloop.run(main)


def _argument(reader: Callable[[str], Any]) -> Callable[[str], Any]:
    """Make a reader's `ValueError` an error of the command line, which shows its text."""

    def read(text: str) -> Any:
        try:
            return reader(text)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None

    return read


def _list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _choice(flag: Flag) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text in flag.choices:
            return text
        message = f"{text!r} is none of {', '.join(filter(None, flag.choices))}"
        raise ValueError(message)

    return read


def _port(text: str) -> int:
    if text.isdecimal() and int(text) <= 65535:
        return int(text)
    message = f"{text!r} is no port: 0 to 65535"
    raise ValueError(message)


_READERS: Mapping[str, Callable[[str], Any]] = {
    DURATION: parse_duration, SIZE: parse_size, LIST: _list, BOOL: parse_bool, PORT: _port,
}  # fmt: skip
_METAVARS = {DURATION: "DURATION", SIZE: "SIZE", LIST: "LIST", INT: "N", PORT: "PORT", TEXT: "TEXT", BOOL: "BOOL"}


def _parameter(name: str, flag: Flag, default: Any) -> inspect.Parameter:
    shared: dict[str, Any] = {
        "help": flag.help, "rich_help_panel": flag.group, "metavar": _METAVARS[flag.kind],
        "show_default": default not in ("", (), None),
    }  # fmt: skip
    names = (flag.short, "--" + name) if flag.short else (spelling(name),)
    reader = _choice(flag) if flag.choices else _READERS.get(flag.kind)
    if reader is None:
        option: Any = typer.Option(*names, **shared)
    else:
        option, default = typer.Option(*names, parser=_argument(reader), **shared), default_text(flag, default)
    annotation: Any = int if flag.kind == INT else str
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=default, annotation=Annotated[annotation, option])


def _signature() -> inspect.Signature:
    """Make the signature typer reads: a keyword for each field of `ServeOptions`."""
    context = inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    return inspect.Signature([context, *(_parameter(one.name, flag, one.default) for one, flag in flags())])


serve.__signature__ = _signature()  # type: ignore[attr-defined]
COMMAND_CLASS = ServeCommand
