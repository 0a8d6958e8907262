"""What a configuration amounts to once its plugins are made: the parts, by the names the configuration gave them.

`epp.config.assemble` builds it; the scheduler, the router and the app read it. Nothing here has a behaviour of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Installed:
    """A plugin instance, the name it is referred to by, and its type as the configuration spells it.

    `parameters` is the validated model it was made with, None when its type takes none.
    """

    name: str
    type: str
    plugin: Any
    parameters: Any = None


@dataclass(frozen=True, slots=True)
class Use:
    """A plugin in a profile. `weight` matters to scorers; `on_error` (`skip` or `reject`) to filters that raise."""

    installed: Installed
    weight: float = 1.0
    on_error: str = "skip"


@dataclass(frozen=True, slots=True)
class ProfileSpec:
    """One scheduling profile: filters and scorers in their order, and the picker."""

    name: str
    filters: tuple[Use, ...]
    scorers: tuple[Use, ...]
    picker: Installed


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """A source of signals of the data layer, with the extractors that read what it fetches."""

    source: Installed
    extractors: tuple[Installed, ...]


@dataclass(frozen=True, slots=True)
class Assembly:
    """Everything a configuration asked for. `producers` are in dependency order; `plugins` holds every instance by name.

    `created` names the plugins that nobody configured and something needs; `gates` holds every feature gate.
    """

    plugins: Mapping[str, Installed]
    profiles: tuple[ProfileSpec, ...]
    handler: Installed
    producers: tuple[Installed, ...]
    admitters: tuple[Installed, ...]
    parsers: tuple[Installed, ...]
    discovery: Installed | None
    sources: tuple[SourceSpec, ...] = ()
    gates: Mapping[str, bool] = field(default_factory=dict)
    created: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
