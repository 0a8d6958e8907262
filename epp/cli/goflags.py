"""Flags as Go's programs take them, turned into the ones typer knows.

`--flag`, `--flag=false`, `--flag false`, `-flag`, `-flag=value`, `-v=2` and `--v=2` all work, so that a command line written
for the reference need not change. Knows no particular flag: it reads the command's own options.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import typer
from typer.core import TyperCommand

from epp.config.duration import is_bool


class Option(NamedTuple):
    """One option of a command: its `field`, how typer spells it, and whether it may stand without a value (true)."""

    field: str
    spelled: str
    switch: bool = False


def normalised(arguments: Sequence[str], options: Mapping[str, Option]) -> tuple[list[str], list[str]]:
    """Rewrite `arguments` with one spelling an option, and list the fields they give. `options` is keyed by bare name.

    What is no known option is left as it is.
    """
    written: list[str] = []
    given: list[str] = []
    left = list(reversed(arguments))
    while left:
        argument = left.pop()
        if argument == "--":
            return [*written, argument, *reversed(left)], given
        name, equals, value = argument.lstrip("-").partition("=")
        option = options.get(name) if argument.startswith("-") else None
        if option is None:
            written.append(argument)
            continue
        given.append(option.field)
        written.append(option.spelled)
        if equals:
            written.append(value)
        elif option.switch and not (left and is_bool(left[-1])):
            written.append("true")
        elif left:
            written.append(left.pop())
    return written, given


class GoCommand(TyperCommand):
    """A command whose flags may be written as Go's. The fields that were given are left in the context's `obj`."""

    switches: ClassVar[Collection[str]] = ()  # fields that may be given without a value
    refused: ClassVar[Mapping[str, str]] = {}  # bare name of a flag → why it stops the start

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Rewrite the arguments, then let typer read them."""
        for argument in args:
            name = argument.lstrip("-").partition("=")[0]
            if argument.startswith("-") and name in self.refused:
                raise typer.BadParameter(self.refused[name], ctx=ctx)
        written, given = normalised(args, dict(self._options(self.params)))
        ctx.obj = given
        return super().parse_args(ctx, written)

    def _options(self, parameters: Iterable[Any]) -> Iterator[tuple[str, Option]]:
        for parameter in parameters:
            for spelled in parameter.opts:
                if spelled.startswith("-"):
                    yield spelled.lstrip("-"), Option(parameter.name, parameter.opts[0], parameter.name in self.switches)
