"""A configuration → its plugins, made and put in their places.

Decides what is added to what the file says (a profile, a picker, a handler, parsers, producers, the metrics source), as the
reference does, and refuses what does not fit. Finding classes is the registry's; running anything is the app's.
"""

from __future__ import annotations

import pathlib
import random as random_module
from dataclasses import dataclass
from typing import Any

from epp.api import Data, Services
from epp.clock import Clock
from epp.config.assembly import Assembly, Installed
from epp.config.catalogue import FLOW_CONTROL
from epp.config.document import Path
from epp.config.load import Loaded
from epp.config.order import ordered, unmet
from epp.config.places import Places
from epp.config.problems import Problems
from epp.config.registry import PluginClass, Registry, describe_failure
from epp.config.schema import PluginSpec
from epp.config.validate import validated
from epp.errors import ConfigError

ALWAYS = "inflight-load-producer"  # leases count what it attaches
REFERENCE_ENDING = "_producer_name"  # a parameter so called names a producer; a name nobody has would fail silently


@dataclass(frozen=True)
class Part:
    """A plugin that was made, with what its class says, and where the configuration asks for it."""

    installed: Installed
    described: PluginClass
    path: Path


def assemble(
    loaded: Loaded,
    *,
    registry: Registry,
    clock: Clock,
    random: random_module.Random,
    directory: pathlib.Path | None = None,
) -> Assembly:
    """Make every plugin that `loaded` asks for or needs. Raises `ConfigError` with all that is wrong.

    Relative paths count from `directory`, by default the configuration file's.
    """
    problems = Problems(loaded.document)
    workshop = Workshop(registry, problems, clock, random, directory or loaded.directory)
    for index, spec in enumerate(loaded.config.plugins):
        workshop.configured(spec, ("plugins", index))
    places = Places(loaded, workshop, problems)
    profiles = places.profiles()
    handler = places.handler()
    parsers = places.parsers()
    discovery = places.discovery()
    sources = places.sources()
    places.flow_control()
    places.without_effect()
    _check_references(workshop)
    workshop.complete()
    producers = ordered([part for part in workshop.parts.values() if "producer" in part.described.kinds], problems)
    problems.check()
    places.unused()
    assert handler is not None  # noqa: S101 - there would have been a problem
    return Assembly(
        plugins={name: part.installed for name, part in workshop.parts.items()},
        profiles=tuple(profiles),
        handler=handler,
        producers=tuple(part.installed for part in producers),
        admitters=tuple(part.installed for part in workshop.parts.values() if "admitter" in part.described.kinds),
        parsers=tuple(parsers),
        discovery=discovery,
        sources=tuple(sources),
        gates=loaded.gates,
        created=tuple(workshop.created),
        warnings=(*loaded.warnings, *problems.warnings),
    )


def _check_references(workshop: Workshop) -> None:
    """See that parameters which name a producer name one; a name that is a type is made."""
    for part in list(workshop.parts.values()):
        parameters = part.installed.parameters
        for field, info in type(parameters).model_fields.items() if parameters is not None else ():
            name = getattr(parameters, field) if field.endswith(REFERENCE_ENDING) else ""
            if not isinstance(name, str) or not name:
                continue
            alias = info.alias or field
            workshop.require(name, "producer", (*part.path, "parameters", alias), create=True)


class Workshop:
    """Makes plugins, each once, and knows them by name."""

    def __init__(
        self, registry: Registry, problems: Problems, clock: Clock, random: random_module.Random, directory: pathlib.Path
    ) -> None:
        """Take what plugins are made with."""
        self.registry = registry
        self.problems = problems
        self.parts: dict[str, Part] = {}
        self.created: list[str] = []
        self.inert: dict[str, str] = {}  # name → type of what belongs to flow control
        self.failed: set[str] = set()  # names whose error is noted already
        self._clock, self._random, self._directory = clock, random, directory

    def configured(self, spec: PluginSpec, path: Path) -> None:
        """Make a plugin that the configuration lists; errors are noted."""
        if spec.type in FLOW_CONTROL and spec.type not in self.registry:
            self.inert[spec.reference] = spec.type
            self.problems.warn(
                (*path, "type"), f"{spec.type} belongs to flow control, which this build does not have yet; no effect"
            )
            return
        part = self._make(spec.reference, spec.type, spec.parameters, path)
        if part is None:
            self.failed.add(spec.reference)
        else:
            self.parts[spec.reference] = part

    def create(self, kind: str, path: Path) -> Part | None:
        """Make a plugin of type `kind` that nobody configured, named like its type; errors are noted at `path`."""
        if kind in self.failed:
            return None
        if kind not in self.parts:
            part = self._make(kind, kind, {}, path)
            if part is None:
                self.failed.add(kind)
                return None
            self.parts[kind] = part
            self.created.append(kind)
        return self.parts[kind]

    def require(self, name: str, kind: str, path: Path, *, create: bool) -> Part | None:
        """Give the plugin called `name`, which must be of `kind`; with `create`, a name that is a type is made."""
        if name not in self.parts and create and name in self.registry:
            self.create(name, path)
        if name in self.failed:
            return None
        part = self.parts.get(name)
        if part is None:
            self.problems.missing(path, name, [*self.parts, *self.inert], self.inert)
            return None
        if kind not in part.described.kinds:
            kinds = " and ".join(sorted(part.described.kinds))
            self.problems.error(path, f"{name!r} is a {kinds}, but a {kind} is needed here")
            return None
        return part

    def of_kind(self, kind: str) -> list[Part]:
        """List the plugins of `kind`, in the order of the configuration."""
        return [part for part in self.parts.values() if kind in part.described.kinds]

    def complete(self) -> None:
        """Create what is needed and not configured: the producer that leases count with, and those of data."""
        if ALWAYS in self.registry and not any(part.described.name == ALWAYS for part in self.parts.values()):
            self.create(ALWAYS, ())
        while missing := unmet(self.parts.values()):
            part, data = missing[0]
            if not self._produce(part, data):
                return

    def _produce(self, part: Part, data: type[Data]) -> bool:
        """Create the default producer of what `part` needs; what stands in the way is noted."""
        name, kind = part.installed.name, data.default_producer
        if not kind:
            message = f"{name!r} needs {data.__name__}, which no configured plugin produces: add a producer of it"
            self.problems.error(part.path, message)
            return False
        made = self.create(kind, part.path)
        if made is not None and data not in made.described.produces:
            message = f"{name!r} needs {data.__name__}, which its default producer {kind!r} does not produce"
            self.problems.error(part.path, message)
        return made is not None and data in made.described.produces

    def _make(self, name: str, kind: str, given: dict[str, Any], path: Path) -> Part | None:
        before = len(self.problems.errors)
        try:
            described = self.registry.find(kind, self._directory)
        except ConfigError as error:
            self.problems.adopt((*path, "type") if path[:1] == ("plugins",) else path, error)
            return None
        if described.parameters is None:
            if given:
                self.problems.error((*path, "parameters"), f"type {kind!r} takes no parameters")
                return None
            parameters = None
        else:
            parameters = validated(described.parameters, given, self.problems, (*path, "parameters"))
            if len(self.problems.errors) > before:
                return None
        arguments: dict[str, Any] = {} if parameters is None else {"parameters": parameters}
        if described.takes_services:
            arguments["services"] = Services(name, self._clock, self._random, self._directory)
        try:
            plugin = described.cls(**arguments)
        except ConfigError as error:
            self.problems.adopt(path, error)
        except Exception as error:  # noqa: BLE001 - a plugin may raise anything
            self.problems.error(path, f"{described.cls.__name__} could not be made: {describe_failure(error)}")
        else:
            return Part(Installed(name, kind, plugin, parameters), described, path)
        return None
