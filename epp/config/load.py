"""A configuration's text → the validated configuration, or a `ConfigError` that lists all that is wrong with it.

Decides what is wrong with the file in itself: YAML, fields, feature gates, names. Whether its plugin types exist and fit
is `epp.config.assemble`'s. No text means the reference's defaults.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from epp.config.document import Document, read_document
from epp.config.duration import is_bool, parse_bool
from epp.config.options import ServeOptions, check_discovery
from epp.config.problems import Problems, nearest
from epp.config.schema import (
    API_VERSION,
    FEATURE_GATES,
    OLD_API_VERSION,
    RETIRED_GATES,
    DataLayer,
    EndpointPickerConfig,
    FlowControl,
    RequestHandler,
)
from epp.config.validate import validated
from epp.errors import ConfigError

#: What runs without a configuration file: the reference's defaults.
DEFAULTS: Mapping[str, Any] = {
    "apiVersion": API_VERSION,
    "kind": "EndpointPickerConfig",
    "plugins": [
        {"type": "queue-scorer"},
        {"type": "kv-cache-utilization-scorer"},
        {"type": "prefix-cache-scorer"},
    ],
    "schedulingProfiles": [
        {
            "name": "default",
            "plugins": [
                {"pluginRef": "queue-scorer", "weight": 2},
                {"pluginRef": "kv-cache-utilization-scorer", "weight": 2},
                {"pluginRef": "prefix-cache-scorer", "weight": 3},
            ],
        }
    ],
}


@dataclass(frozen=True)
class Loaded:
    """A configuration that is right in itself. `directory` is what relative paths in it are relative to."""

    config: EndpointPickerConfig
    document: Document
    directory: pathlib.Path
    gates: Mapping[str, bool] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def data_layer(self) -> DataLayer:
        """The data layer, under whichever name it was given."""
        return self.config.data_layer or self.config.data or DataLayer()


def load_default() -> Loaded:
    """Give the configuration that runs when none is given."""
    return _load(Document("the built-in defaults", dict(DEFAULTS)), pathlib.Path.cwd())


def load_text(text: str, file: str = "--config-text", directory: pathlib.Path | None = None) -> Loaded:
    """Load a configuration from `text`; `file` is how errors call it. Raises `ConfigError`."""
    document = read_document(text, file)
    if document.value is None:
        loaded = load_default()
        warning = f"{file}: holds no configuration; the defaults are used"
        return Loaded(loaded.config, loaded.document, directory or loaded.directory, loaded.gates, (warning,))
    return _load(document, directory or pathlib.Path.cwd())


def load_file(path: str | pathlib.Path) -> Loaded:
    """Load a configuration from a file. Raises `ConfigError`."""
    path = pathlib.Path(path)
    return load_text(read_text(path), str(path), path.absolute().parent)


def load_for(options: ServeOptions) -> Loaded:
    """Load what `epp serve` was told to run, and make sure that something finds the endpoints. Raises `ConfigError`."""
    if options.config_file:
        loaded = load_file(options.config_file)
    elif options.config_text:
        loaded = load_text(options.config_text)
    else:
        loaded = load_default()
    discovery = loaded.data_layer.discovery
    check_discovery(options, discovery.plugin_ref if discovery else "")
    return loaded


def read_text(path: pathlib.Path) -> str:
    """Read a text file; what goes wrong is a `ConfigError` that says so."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        message = "is not UTF-8 text"
    except OSError as error:
        message = f"cannot be read: {error.strerror or error}"
    raise ConfigError(message, file=str(path))


def _load(document: Document, directory: pathlib.Path) -> Loaded:
    problems = Problems(document)
    if not isinstance(document.value, Mapping):
        problems.error((), "must be a mapping with apiVersion, kind and plugins")
        problems.check()
    config = validated(EndpointPickerConfig, _with_version(document.value, problems), problems, ())
    gates = _gates(document.value, problems)
    _names(document.value, problems)
    problems.check()
    assert config is not None  # noqa: S101 - there would have been a problem
    config = _modern(config, problems)
    problems.check()
    return Loaded(config, document, directory, gates, tuple(problems.warnings))


def _with_version(value: Any, problems: Problems) -> Any:
    """Say what to write when the file does not say what it is; the rest is then checked all the same."""
    missing = {key: DEFAULTS[key] for key in ("apiVersion", "kind") if value.get(key) is None}
    for key, wanted in missing.items():
        problems.error((key,), f"is required: write {key}: {wanted}")
    return {**value, **missing}


def _gates(value: Mapping[str, Any], problems: Problems) -> dict[str, bool]:
    """Read the gates. Works on what the file says, so that a fault elsewhere in it hides no fault here."""
    gates = dict(FEATURE_GATES)
    for index, entry in enumerate(_listed(value, "featureGates")):
        path = ("featureGates", index)
        name, equals, switch = str(entry).partition("=")
        if equals and not is_bool(switch):
            problems.error(path, f"{switch!r} is no value for a gate: write {name}=true or {name}=false")
        elif name in gates:
            gates[name] = parse_bool(switch) if equals else True
        elif name in RETIRED_GATES:
            problems.warn(path, f"gate {name!r} of an older release has no effect: what it switched is always on")
        else:
            problems.error(path, f"unknown feature gate {name!r}{nearest(name, gates)}")
    return gates


def _names(value: Mapping[str, Any], problems: Problems) -> None:
    """Refuse names that stand twice."""
    for section, keys in (("plugins", ("name", "type")), ("schedulingProfiles", ("name",))):
        seen: dict[str, int] = {}
        for index, entry in enumerate(_listed(value, section)):
            key = next((key for key in keys if isinstance(entry, Mapping) and entry.get(key)), None)
            if key is None or not isinstance(name := entry[key], str):
                continue
            if name in seen:
                message = f"the name {name!r} is taken by {section}[{seen[name]}]: give this one a name of its own"
                problems.error((section, index, key), message)
            seen.setdefault(name, index)


def _listed(value: Mapping[str, Any], key: str) -> list[Any]:
    found = value.get(key)
    return found if isinstance(found, list) else []


def _modern(config: EndpointPickerConfig, problems: Problems) -> EndpointPickerConfig:
    """Move what stands in older places to where it belongs, with a warning. The newer place wins, as in the reference."""
    changes: dict[str, Any] = {}
    if config.api_version == OLD_API_VERSION:
        problems.warn(("apiVersion",), f"{OLD_API_VERSION} is the older name; write {API_VERSION}")
    if config.data is not None:
        if config.data_layer is not None:
            problems.error(("data",), "is the older name of dataLayer, which stands here too: remove one")
        problems.warn(("data",), "is the older name of dataLayer")
    if config.saturation_detector is not None:
        problems.warn(("saturationDetector",), "belongs into flowControl.saturationDetector")
        flow = config.flow_control or FlowControl()
        if flow.saturation_detector is None:
            changes["flow_control"] = flow.model_copy(update={"saturation_detector": config.saturation_detector})
    if config.parser is not None:
        problems.warn(("parser",), "belongs into requestHandler.parsers")
        handler = config.request_handler or RequestHandler()
        if not handler.parsers:
            changes["request_handler"] = handler.model_copy(update={"parsers": [config.parser]})
    return config.model_copy(update=changes)
