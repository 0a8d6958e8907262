"""`epp check`: what a configuration would run, or what is wrong with it. Makes the plugins, runs nothing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from epp.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from epp.config.assembly import Assembly, Installed


def check(
    config: Annotated[
        str, typer.Argument(metavar="[CONFIG]", show_default=False, help="The EndpointPickerConfig file; none: the defaults.")
    ] = "",
) -> None:
    """Show what a configuration makes the picker run; exit 1 with all errors and their lines when it cannot be used."""
    import random

    from rich.console import Console

    from epp.clock import system_clock
    from epp.config.assemble import assemble
    from epp.config.load import load_default, load_file
    from epp.config.registry import Registry

    out, err = Console(highlight=False, soft_wrap=True), Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        loaded = load_file(config) if config else load_default()
        assembly = assemble(loaded, registry=Registry(), clock=system_clock, random=random.Random())
    except ConfigError as error:
        err.print(str(error), style="red", markup=False)
        raise typer.Exit(1) from None
    for style, line in described(assembly, loaded.directory):
        out.print(line, style=style, markup=False)


def described(assembly: Assembly, directory: Path) -> Iterator[tuple[str, str]]:
    """Give the lines that describe an assembly, each with a style; relative paths count from `directory`."""
    yield (
        "bold",
        f"{len(assembly.profiles)} profile{'s' if len(assembly.profiles) > 1 else ''}, chosen by {assembly.handler.name}",
    )
    for profile in assembly.profiles:
        yield "bold", f"profile {profile.name}"
        for use in profile.filters:
            reject = "  onError: reject" if use.on_error == "reject" else ""
            yield "", _line("filter", use.installed, assembly) + reject
        for use in profile.scorers:
            yield "", _line("scorer", use.installed, assembly, f"weight {use.weight:g}")
        yield "", _line("picker", profile.picker, assembly)
    yield from _section("producers, in order", "producer", assembly.producers, assembly)
    yield from _section("admitters", "admitter", assembly.admitters, assembly)
    yield from _section("parsers", "parser", assembly.parsers, assembly)
    if assembly.sources:
        yield "bold", "data layer"
        for spec in assembly.sources:
            yield "", _line("source", spec.source, assembly)
            for extractor in spec.extractors:
                yield "", _line("extractor", extractor, assembly)
    yield "bold", "discovery"
    if assembly.discovery:
        yield "", _line("discovery", assembly.discovery, assembly)
    else:
        yield "", "  none in the configuration: epp serve needs --endpoints"
    warnings = (*assembly.warnings, *_missing(assembly.discovery, directory))
    if warnings:
        yield "bold", "warnings"
        for warning in warnings:
            yield "yellow", f"  {warning}"


def _missing(discovery: Installed | None, directory: Path) -> Iterator[str]:
    """Warn of an endpoints file that is not there: the configuration is right, but here and now it would serve nothing."""
    from epp.discovery.file import FileParameters

    given = discovery.parameters if discovery else None
    if discovery is None or not isinstance(given, FileParameters):
        return
    file = directory / given.path
    try:
        found = file.is_file()
    except OSError as error:  # a directory on the way that may not be entered
        yield f"{file}: cannot be read: {error.strerror or error} (path of {discovery.name!r})"
        return
    if not found:
        then = "there are no endpoints until it comes" if given.watch_file else "epp serve will not start"
        yield f"{file}: there is no such file (path of {discovery.name!r}); {then}"


def _section(title: str, role: str, installed: tuple[Installed, ...], assembly: Assembly) -> Iterator[tuple[str, str]]:
    if installed:
        yield "bold", title
        for one in installed:
            yield "", _line(role, one, assembly)


def _line(role: str, installed: Installed, assembly: Assembly, more: str = "") -> str:
    name = installed.name if installed.name == installed.type else f"{installed.name} ({installed.type})"
    parts = [f"  {role:<10} {name}", more, _parameters(installed.parameters)]
    if installed.name in assembly.created:
        parts.append("(added)")
    return "  ".join(part for part in parts if part)


def _parameters(parameters: Any) -> str:
    """Write the parameters that differ from their defaults."""
    if parameters is None:
        return ""
    given = parameters.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    return json.dumps(given, ensure_ascii=False) if given else ""
