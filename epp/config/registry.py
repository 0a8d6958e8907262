"""From the type a configuration names to the class behind it, and what that class is and takes.

A type is an entry point of the group `epp.plugins`, `package.module:Class`, or `./file.py:Class` beside the
configuration. Decides which kinds a class is (by its verbs) and how it is constructed (by its `__init__`); makes no
instance. Code that fails while it is loaded becomes a `ConfigError` with the file and line in that code.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pathlib
import sys
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any, TypeAlias

import pydantic

from epp.api import Data
from epp.config.catalogue import ALIASES, EXTRACTORS, FLOW_CONTROL, REFERENCE, SOURCES
from epp.config.problems import nearest
from epp.errors import ConfigError

GROUP = "epp.plugins"

Class: TypeAlias = type[Any]

#: A kind of plugin → the verbs that make a class that kind.
VERBS: Mapping[str, tuple[str, ...]] = {
    "filter": ("filter",),
    "scorer": ("score",),
    "picker": ("pick",),
    "profile handler": ("profiles", "primary"),
    "producer": ("produce",),
    "admitter": ("admit",),
    "parser": ("parse",),
    "discovery": ("run",),
}
#: Verbs any plugin may have; a class with only these observes.
OBSERVING = ("routed", "first_token", "finished", "departed")
#: The verb that does I/O; no other one may be a coroutine, for a decision is made without giving up the event loop.
WAITING = "run"
DECIDING = (*(verb for verbs in VERBS.values() for verb in verbs if verb != WAITING), "usage", *OBSERVING)


@dataclass(frozen=True)
class PluginClass:
    """A plugin's class, its type's `name`, and what its definition says. `parameters` is None when it takes none."""

    name: str
    cls: Class
    kinds: frozenset[str]
    parameters: type[pydantic.BaseModel] | None
    takes_services: bool
    needs: tuple[type[Data], ...] = ()
    uses: tuple[type[Data], ...] = ()
    produces: tuple[type[Data], ...] = ()

    @property
    def summary(self) -> str:
        """The first line of the docstring."""
        return (inspect.getdoc(self.cls) or "").split("\n", 1)[0]


class Registry:
    """Finds plugin classes by type. Loads nothing before it is asked for."""

    def __init__(self, types: Mapping[str, type] | None = None) -> None:
        """Know `types`; without them, the installed entry points."""
        self._types: dict[str, Any] = dict(types) if types is not None else {
            point.name: point for point in entry_points(group=GROUP)
        }  # fmt: skip
        self._files: dict[pathlib.Path, ModuleType] = {}
        self._found: dict[tuple[str, pathlib.Path | None], PluginClass] = {}

    def __contains__(self, name: str) -> bool:
        """Tell whether `name` is a registered type, or an older name of one."""
        return ALIASES.get(name, name) in self._types

    def names(self) -> list[str]:
        """List the registered types."""
        return sorted(self._types)

    def find(self, name: str, directory: pathlib.Path) -> PluginClass:
        """Give the class of type `name`; files are relative to `directory`. Raises `ConfigError`."""
        key = (name, directory if _is_file(name) else None)
        if key not in self._found:
            self._found[key] = describe(ALIASES.get(name, name), self._load(name, directory))
        return self._found[key]

    def _load(self, name: str, directory: pathlib.Path) -> type:
        if name not in self._types and (name := ALIASES.get(name, name)) not in self._types:
            if ":" in name:
                return self._from_file(name, directory) if _is_file(name) else _from_module(name)
            raise ConfigError(unknown(name, self.names()))
        found = self._types[name]
        if isinstance(found, type):
            return found
        try:
            return _checked(name, found.load())
        except ConfigError:
            raise
        except ModuleNotFoundError as error:
            message = f"type {name!r} is registered, but the module {error.name!r} it needs is not installed"
            raise ConfigError(message) from error
        except Exception as error:
            message = f"type {name!r} cannot be loaded: {describe_failure(error)}"
            raise ConfigError(message) from error

    def _from_file(self, name: str, directory: pathlib.Path) -> type:
        file, _, attribute = name.rpartition(":")
        path = (directory / file).resolve()
        if path not in self._files:
            self._files[path] = _load_file(path, file)
        return _attribute(self._files[path], attribute, name)


def describe(name: str, cls: type) -> PluginClass:
    """Read from a class what it is and takes. Raises `ConfigError` when it cannot be a plugin."""
    kinds = {kind for kind, verbs in VERBS.items() if all(callable(getattr(cls, verb, None)) for verb in verbs)}
    if name in SOURCES:
        kinds.add("data source")
    if name in EXTRACTORS:
        kinds.add("extractor")
    if not kinds and any(callable(getattr(cls, verb, None)) for verb in OBSERVING):
        kinds.add("observer")
    if not kinds:
        verbs = ", ".join("+".join(verbs) for verbs in VERBS.values())
        message = (
            f"class {cls.__name__} has none of the verbs that make it a plugin: {verbs} (or, to observe, {', '.join(OBSERVING)})"
        )
        raise ConfigError(message)
    _check_waiting(cls)
    parameters, services = _constructor(cls)
    return PluginClass(
        name, cls, frozenset(kinds), parameters, services,
        needs=_data(cls, "needs"), uses=_data(cls, "uses"), produces=_data(cls, "produces"),
    )  # fmt: skip


def _check_waiting(cls: type) -> None:
    """Refuse verbs that are coroutines and must not be, and the one that is none and must be."""
    for verb in DECIDING:
        if _is_async(getattr(cls, verb, None)):
            message = (
                f"{cls.__name__}.{verb} is async; a verb decides without waiting: write `def {verb}`, and let a background "
                "source or a discovery do what must wait"
            )
            raise ConfigError(message)
    run = getattr(cls, WAITING, None)
    if callable(run) and not _is_async(inspect.unwrap(run)) and not _is_async(run):
        message = (
            f"{cls.__name__}.{WAITING} is not async; a discovery waits for changes: write `async def {WAITING}(self, update)`"
        )
        raise ConfigError(message)


def _is_async(verb: Any) -> bool:
    """Tell whether calling `verb` gives something to wait for."""
    return any(
        inspect.iscoroutinefunction(found) or inspect.isasyncgenfunction(found)
        for found in (verb, getattr(verb, "__call__", None))  # noqa: B004 - the method is wanted, not whether there is one
    )


def unknown(name: str, names: list[str]) -> str:
    """Say that a type is unknown, or known to the reference and not built here."""
    if name in FLOW_CONTROL:
        return f"type {name!r} belongs to flow control, which this build does not have yet"
    if name in REFERENCE:
        return f"type {name!r} is the reference's; this build does not have it"
    return f"unknown plugin type {name!r}{nearest(name, names)}"


def _is_file(name: str) -> bool:
    """Tell whether a type names a class in a file."""
    file, colon, _ = name.rpartition(":")
    return bool(colon) and (file.endswith(".py") or file.startswith((".", "/")))


def _from_module(name: str) -> type:
    module_name, _, attribute = name.rpartition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and module_name.startswith(error.name):
            message = f"there is no module {error.name!r}; for a class in a file write ./file.py:{attribute}"
        else:
            message = f"{module_name} needs the module {error.name!r}, which is not installed"
        raise ConfigError(message) from error
    except Exception as error:
        message = f"{module_name} cannot be loaded: {describe_failure(error)}"
        raise ConfigError(message) from error
    return _attribute(module, attribute, name)


def _load_file(path: pathlib.Path, shown: str) -> ModuleType:
    """Load a file under a module name of its own, so that it can shadow nothing."""
    if not path.is_file():
        message = f"there is no file {shown!r} (looked for {path})"
        raise ConfigError(message)
    module_name = f"_epp_plugin_{path.stem}_{sha256(str(path).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        message = f"{shown!r} is no Python file: its name must end in .py"
        raise ConfigError(message)
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses and pydantic look their module up
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        sys.modules.pop(module_name, None)
        message = f"{shown} cannot be loaded: {describe_failure(error, path)}"
        raise ConfigError(message) from error
    return module


def _attribute(module: ModuleType, attribute: str, name: str) -> type:
    found = getattr(module, attribute, None)
    if found is None:
        classes = {key: value for key, value in vars(module).items() if isinstance(value, type)}
        classes = {key: value for key, value in classes.items() if value.__module__ == module.__name__} or classes
        message = f"there is no class {attribute!r} in {name.rpartition(':')[0]}{nearest(attribute, classes)}"
        raise ConfigError(message)
    return _checked(name, found)


def _checked(name: str, found: Any) -> type:
    if isinstance(found, type):
        return found
    message = f"{name!r} names {type(found).__name__} {str(found)[:60]!r}, not a class"
    raise ConfigError(message)


def describe_failure(error: BaseException, file: pathlib.Path | None = None) -> str:
    """Say what was raised and where: the last line of the traceback, or the last one within `file`."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}: {type(error).__name__}: {error.msg}"
    place, trace = "", error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code.co_filename
        if file is None or code == str(file):
            place = f"{code}:{trace.tb_lineno}: "
        trace = trace.tb_next
    return f"{place}{type(error).__name__}: {error}"


def _data(cls: type, attribute: str) -> tuple[type[Data], ...]:
    found = getattr(cls, attribute, ())
    if not isinstance(found, (tuple, list)) or not all(isinstance(one, type) and issubclass(one, Data) for one in found):
        message = f"{cls.__name__}.{attribute} must be a tuple of subclasses of epp.api.Data"
        raise ConfigError(message)
    return tuple(found)


def _constructor(cls: type) -> tuple[type[pydantic.BaseModel] | None, bool]:
    """Find the model of a constructor's `parameters`, and whether it takes `services`."""
    arguments = _arguments(cls)
    for name, argument in arguments.items():
        optional = argument.default is not inspect.Parameter.empty or argument.kind in (
            inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD,
        )  # fmt: skip
        if name not in ("parameters", "services") and not optional:
            message = f"{cls.__name__}.__init__ wants {name!r}, but a plugin is given parameters, services, both or nothing"
            raise ConfigError(message)
    if "parameters" not in arguments:
        return None, "services" in arguments
    model = _annotation(cls, arguments["parameters"].annotation)
    if not (isinstance(model, type) and issubclass(model, pydantic.BaseModel)):
        message = (
            f"{cls.__name__}.__init__: annotate 'parameters' with a subclass of epp.api.Parameters that is imported at run time"
        )
        raise ConfigError(message)
    return model, "services" in arguments


def _arguments(cls: type) -> dict[str, inspect.Parameter]:
    try:
        if sys.version_info >= (3, 14):  # annotations are code there; those of names that exist for type checkers only may fail
            import annotationlib

            signature = inspect.signature(cls, annotation_format=annotationlib.Format.FORWARDREF)
        else:
            signature = inspect.signature(cls)
    except (TypeError, ValueError) as error:
        message = f"{cls.__name__} cannot be constructed: {error}"
        raise ConfigError(message) from error
    return dict(signature.parameters)


def _annotation(cls: type, annotation: Any) -> Any:
    """Evaluate the one annotation that matters; others may name what exists for type checkers only."""
    if not isinstance(annotation, str):
        return annotation
    scope = getattr(inspect.unwrap(cls.__init__), "__globals__", None) or vars(sys.modules[cls.__module__])  # type: ignore[misc]

    def holder() -> None: ...

    holder.__annotations__ = {"parameters": annotation}
    try:
        return typing.get_type_hints(holder, globalns=scope)["parameters"]
    except Exception:  # noqa: BLE001 - an annotation is any expression; the caller says what it must be
        return annotation
