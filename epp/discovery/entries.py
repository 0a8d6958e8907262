"""The endpoints file: its text → entries, and what is wrong with it, line by line. Pure; it opens nothing.

A bad entry is a problem to report, and the others stay; a file that is not of the form at all is a `ConfigError`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, NamedTuple

import yaml

from epp.discovery.membership import Entry
from epp.discovery.resolve import is_host_name, literal
from epp.errors import ConfigError

MAX_BYTES = 1 << 20
MAX_DEPTH = 32
KEYS = ("name", "namespace", "address", "port", "labels")
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the pure one takes seconds for 1 MiB


class Problem(NamedTuple):
    """One thing that is wrong in a file that is usable otherwise. `line` is 0 where it is not known (JSON)."""

    entry: str
    line: int
    why: str


class BadEntryError(ValueError):
    """An entry that cannot be used."""


def read_entries(text: bytes, file: str) -> tuple[list[Entry], list[Problem]]:
    """Read `endpoints:` from YAML or JSON; raise ConfigError when there is no such list."""
    if len(text) > MAX_BYTES:
        message = f"is larger than {MAX_BYTES} bytes; list fewer endpoints"
        raise ConfigError(message, file=file)
    tree, lines = _load(text, file)
    if not isinstance(tree, Mapping) or "endpoints" not in tree:
        message = "has no `endpoints:` list at its top level"
        raise ConfigError(message, file=file, key="endpoints")
    listed = tree["endpoints"] if tree["endpoints"] is not None else []
    if not isinstance(listed, list):
        message = "must be a list of entries with `address` and `port`"
        raise ConfigError(message, file=file, key="endpoints")
    entries: list[Entry] = []
    problems: list[Problem] = []
    for index, raw in enumerate(listed):
        line = lines[index] if index < len(lines) else 0
        label = _label(raw, index)
        try:
            entries.append(_entry(raw))
        except BadEntryError as error:
            problems.append(Problem(label, line, f"skipped: {error}"))
            continue
        problems += [Problem(label, line, why) for why in _strange(raw)]
    return entries, problems


def _load(text: bytes, file: str) -> tuple[Any, list[int]]:
    """Give the tree, and for YAML the line of each entry."""
    if text.lstrip()[:1] == b"{":  # JSON is YAML, but for tabs
        try:
            return json.loads(text), []
        except (ValueError, RecursionError):
            pass  # flow-style YAML, or broken: the YAML parser names the line
    try:
        _refuse_deep(text, file)
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            return (loader.construct_document(node) if node else None), _lines(node)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else None
        message = f"is not valid YAML: {error.problem or error.context}"
        raise ConfigError(message, file=file, line=line) from error
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        message = f"is not valid YAML: {error}"
        raise ConfigError(message, file=file) from error


def _refuse_deep(text: bytes, file: str) -> None:
    """Refuse a tree of absurd depth: the C composer recurses without a limit and would take the process with it."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            message = f"is nested more than {MAX_DEPTH} levels deep"
            raise ConfigError(message, file=file)


def _lines(node: Any) -> list[int]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == "endpoints" and isinstance(value, yaml.SequenceNode):
                return [item.start_mark.line + 1 for item in value.value]
    return []


def _label(raw: object, index: int) -> str:
    name = raw.get("name") if isinstance(raw, Mapping) else None
    return f"endpoints[{index}]" + (f" {name!r}" if name else "")


def _entry(raw: object) -> Entry:
    if not isinstance(raw, Mapping):
        msg = f"an entry has {', '.join(KEYS)}; this is {raw!r:.80}"
        raise BadEntryError(msg)
    address = raw.get("address")
    host = address.strip() if isinstance(address, str) else ""
    if not host:
        msg = "`address` is missing; give an IP address or a host name" if address is None else f"bad `address` {address!r}"
        raise BadEntryError(msg)
    if literal(host) is None and not is_host_name(host):
        msg = f"`address` {host!r} is neither an IP address nor a host name"
        raise BadEntryError(msg)
    host = literal(host) or host
    port = _port(raw.get("port"))
    name, namespace = _text(raw, "name") or host, _text(raw, "namespace") or "default"
    return Entry(host, port, name, namespace, _labels(raw.get("labels")))


def _port(value: object) -> int:
    text = str(value).strip() if isinstance(value, int | str) and not isinstance(value, bool) else ""
    port = int(text) if text.isascii() and text.isdigit() and len(text) <= 5 else 0
    if not 1 <= port <= 65535:
        msg = "`port` is missing" if value is None else f"`port` {value!r} is not a number from 1 to 65535"
        raise BadEntryError(msg)
    return port


def _text(raw: Mapping[Any, Any], key: str) -> str:
    value = raw.get(key)
    if value is None or (isinstance(value, str | int | float) and not isinstance(value, bool)):
        return "" if value is None else str(value)
    msg = f"`{key}` must be text, not {value!r:.80}; put it in quotes"
    raise BadEntryError(msg)


def _labels(value: object) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        msg = f"`labels` must be `key: value` pairs, not {value!r:.80}"
        raise BadEntryError(msg)
    labels: dict[str, str] = {}
    for key, text in value.items():
        if not isinstance(text, str | int | float | None):
            msg = f"label {key!r} must be text, not {text!r:.80}; put it in quotes"
            raise BadEntryError(msg)
        # An unquoted `true` is YAML's truth, and means the text its writer saw.
        labels[str(key)] = str(text).lower() if isinstance(text, bool) else "" if text is None else str(text)
    return labels


def _strange(raw: Mapping[Any, Any]) -> list[str]:
    found = []
    for key in raw:
        if key not in KEYS:
            near = get_close_matches(str(key), KEYS, n=1)
            found.append(f"unknown key {key!r} is ignored" + (f"; did you mean {near[0]!r}?" if near else ""))
    return found
