"""Writes `docs/configuration.md` from the schema, the registered plugin types and the flags, so that it cannot differ.

`python -m epp.config.reference FILE` writes the page; with `--check` it changes nothing and fails when the page is old.
"""

from __future__ import annotations

import inspect
import json
import pathlib
import sys
import types
import typing
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

import pydantic
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from epp.config.catalogue import ALIASES, REFERENCE
from epp.config.duration import format_duration
from epp.config.options import RETIRED, default_text, flags, spelling
from epp.config.registry import PluginClass, Registry
from epp.config.schema import FEATURE_GATES, Duration, EndpointPickerConfig, Quantity
from epp.config.validate import models_in, shown_keys

_OURS = ("epp", "epp_plugins")
_KINDS = (
    "filter", "scorer", "picker", "profile handler", "producer", "admitter", "parser", "discovery", "data source", "extractor",
    "observer",
)  # fmt: skip
_NAMES = {str: "text", int: "whole number", float: "number", bool: "true/false", type(None): "null", Any: "anything"}

_HEAD = """# Configuration

<!-- Made by `python -m epp.config.reference`; change the schema, the plugins or the flags instead. -->

`epp serve --config-file FILE` reads an `EndpointPickerConfig`, the file of the reference endpoint picker. `epp check FILE`
shows what it makes the picker run, or every error with its line. Without a file the reference's defaults run:
`queue-scorer` with weight 2, `kv-cache-utilization-scorer` with 2, `prefix-cache-scorer` with 3.

Durations are text with a unit (`50ms`, `30s`, `1m30s`), quantities numbers or text (`500`, `1k`, `1Gi`). Every key stands
once; anchors may be used; JSON is accepted. A key without a value counts as left out. Relative paths count from the file.

What is left out is filled in: a profile `default` of all filters, scorers and pickers in `plugins`; `max-score-picker` in a
profile without a picker; `single-profile-handler`; the parsers; `metrics-data-source` with `core-metrics-extractor`; and the
producers of data that a plugin needs.
"""

_FILES = """## Files

### Endpoints file

What `path` of `file-discovery` names: YAML or JSON, at most 1 MiB. With `watchFile: true` it is read again when it changes.

```yaml
endpoints:
- name: a
  namespace: default
  address: 10.0.0.1
  port: 8000
  labels: {tier: gold}
- {address: "fd00::1", port: 8000}
- {name: b, address: model-server.example, port: 8000}
```

| Field | Type | Default | Meaning |
|---|---|---|---|
| `name` | text | the address | What the endpoint is called. |
| `namespace` | text | `default` | Its namespace. |
| `address` | text | required | IPv4, IPv6, or a host name: every address of it is an endpoint, looked up again every 5 s. |
| `port` | whole number | required | Port of the model server, 1 to 65535. |
| `labels` | mapping |  | Labels, for filters and scorers. |

A bad entry is skipped and logged with its line (which JSON does not have), an unknown key is ignored and logged; the other
entries count. A file that is watched and becomes broken, or goes away, leaves the last good one.

### Adapters file

What `--adapters-file` names: the LoRA adapters of each base model, in YAML or JSON, read again when it changes. A request for
an adapter carries its base model's name in `X-Gateway-Base-Model-Name`, for Envoy's routes.

```yaml
llama-3: [sql, chat]
```

The ConfigMaps of the body based router do as well, several documents in a file, or a `List` of them:

```yaml
apiVersion: v1
kind: ConfigMap
metadata: {name: llama-3-adapters}
data:
  baseModel: llama-3
  adapters: |
    - sql
    - chat
```

A name stands for one thing: an adapter has one base model, and a base model is no adapter. A broken file stops the start; one
that becomes broken is logged with its lines, and leaves the last good one.
"""


def page(registry: Registry) -> str:
    """Render the whole page."""
    return "\n".join([*_sections(), *_plugins(registry), _FILES, *_flags()]).rstrip() + "\n"


def _within(outer: type[pydantic.BaseModel]) -> Iterator[type[pydantic.BaseModel]]:
    """List the models that `outer`'s fields are made of, and theirs, level by level, each once."""
    done = [outer]
    waiting = [outer]
    while waiting:
        for inner in _inner(waiting.pop(0)):
            if inner not in done:
                done.append(inner)
                waiting.append(inner)
                yield inner


def _inner(model: type[pydantic.BaseModel]) -> list[type[pydantic.BaseModel]]:
    return [inner for info in model.model_fields.values() for inner in models_in(info.annotation)]


def _sections() -> Iterator[str]:
    yield _HEAD
    yield "## The file\n"
    models: list[type[pydantic.BaseModel]] = [EndpointPickerConfig, *_within(EndpointPickerConfig)]
    for model in models:
        yield f"### {model.__name__}\n\n{inspect.getdoc(model)}\n"
        yield from _fields(model)
    gates = ", ".join(f"`{name}` ({str(default).lower()})" for name, default in FEATURE_GATES.items())
    yield f"Feature gates and their defaults: {gates}.\n"


def _fields(model: type[pydantic.BaseModel]) -> Iterator[str]:
    yield "| Field | Type | Default | Meaning |\n|---|---|---|---|"
    for key, info in zip(shown_keys(model), model.model_fields.values(), strict=True):
        duration = _is_duration(info)
        default = "required" if info.is_required() else _default(info.get_default(call_default_factory=True), duration=duration)
        kind = "duration" if duration else _type(info.rebuild_annotation())
        yield f"| `{key}` | {kind} | {default} | {_cell(info.description or '')} |"
    yield ""


def _is_duration(info: FieldInfo) -> bool:
    """Tell whether a plugin's parameter calls itself a duration, in its JSON schema: its type is not known here."""
    return isinstance(info.json_schema_extra, dict) and info.json_schema_extra.get("format") == "duration"


def _default(value: Any, *, duration: bool = False) -> str:
    if value in (None, "", PydanticUndefined) or value in ([], {}, ()):
        return ""
    if duration:
        return f"`{format_duration(value)}`"
    if isinstance(value, pydantic.BaseModel):
        value = value.model_dump(mode="json", by_alias=True)
    return f"`{json.dumps(value, default=str)}`"


def _type(annotation: Any) -> str:
    """Name a type as a person writing YAML would."""
    if annotation == Duration:
        return "duration"
    if annotation == Quantity:
        return "quantity"
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return _type(arguments[0])
    if origin is Literal:
        return " or ".join(f"`{one}`" for one in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(_type(one) for one in arguments if one is not type(None)))
    if origin in (list, tuple, set, frozenset, Sequence):
        return f"list of {_type(arguments[0])}"
    if origin is dict or annotation is dict:
        return "mapping"
    return _NAMES.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _plugins(registry: Registry) -> Iterator[str]:
    yield "## Plugins\n"
    yield "`type` is one of these, or a class of your own: `package.module:Class` or `./file.py:Class` (see `plugins.md`).\n"
    known = [registry.find(name, pathlib.Path()) for name in registry.names()]
    ours = [one for one in known if one.cls.__module__.partition(".")[0] in _OURS]
    shown: set[type] = set()
    for kind in _KINDS:
        those = {one.cls: [other for other in ours if other.cls is one.cls] for one in ours if kind in one.kinds}
        those = {cls: names for cls, names in those.items() if cls not in shown}
        shown.update(those)
        if those:
            yield f"### {kind.capitalize()}\n"
        for names in those.values():
            yield from _plugin(names)
    older = ", ".join(f"`{old}` ({new})" for old, new in ALIASES.items())
    yield f"Older names that are understood: {older}.\n"
    lacking = ", ".join(f"`{name}`" for name in sorted(REFERENCE - set(registry.names())))
    yield f"Types of the reference that this build does not have: {lacking}.\n"


def _plugin(names: Sequence[PluginClass]) -> Iterator[str]:
    """Describe one class, under each of its names."""
    plugin = names[0]
    yield f"#### {', '.join(f'`{one.name}`' for one in names)}\n\n{plugin.summary}\n"
    if plugin.needs:
        yield f"Needs {', '.join(f'`{data.__name__}`' for data in plugin.needs)}.\n"
    if plugin.parameters is None or not plugin.parameters.model_fields:
        yield "No parameters.\n"
        return
    yield from _fields(plugin.parameters)
    for model in _within(plugin.parameters):
        yield f"##### {model.__name__}\n\n{(inspect.getdoc(model) or '').splitlines()[0]}\n"
        yield from _fields(model)


def _flags() -> Iterator[str]:
    yield "## Flags of `epp serve`\n"
    yield "The reference's flags in its spelling, and ours. `--flag=false`, `--flag false` and `-flag=false` mean the same."
    yield "`https://` in `--endpoints` is used for scraping only: the Envoy configuration of `epp envoy` speaks plaintext to"
    yield "model servers.\n"
    yield "| Flag | Default | Meaning |\n|---|---|---|"
    for one, flag in flags():
        default = default_text(flag, one.default)
        yield f"| `{spelling(one.name)}` | {f'`{default}`' if default else ''} | {_cell(flag.help)} |"
    yield ""
    retired = ", ".join(f"`--{name}` (`{spec}`)" for name, spec in RETIRED.items())
    yield f"Retired flags stop the start; the metric is described in `engineConfigs` of `core-metrics-extractor`: {retired}.\n"


def main(arguments: Sequence[str]) -> int:
    """Write or check the page; give the exit code."""
    check = "--check" in arguments
    files = [argument for argument in arguments if not argument.startswith("-")]
    file = pathlib.Path(files[0] if files else "docs/configuration.md")
    text = page(Registry())
    if not check:
        file.write_text(text, encoding="utf-8")
    elif not file.is_file() or file.read_text(encoding="utf-8") != text:
        sys.stderr.write(f"{file} is out of date: run scripts/generate\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
