"""YAML text → plain values, and the line of every key and item, so that errors can name the place.

Stricter and plainer than YAML 1.1: a key stands once, only `true` and `false` are booleans (`on` and `yes` stay text, which
a boolean field still understands), dates stay text, and a document that anchors blow up is refused. JSON is YAML.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import yaml

from epp.errors import ConfigError

Path: TypeAlias = tuple[str | int, ...]

MAX_CHARACTERS = 4 * 1024 * 1024
MAX_NODES = 200_000
MAX_DEPTH = 100
_MERGE = "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):
    """Resolves scalars by the core schema of YAML 1.2."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own attribute


for _tag, _pattern, _first in (
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"^(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$", list("-+0123456789")),
    (
        "float",
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
        list("-+0123456789."),
    ),
    ("merge", r"^<<$", ["<"]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), _first)


@dataclass(frozen=True)
class Document:
    """One YAML document: its `value`, and the 1-based line of each key and item by its path."""

    file: str
    value: Any
    lines: Mapping[Path, int] = field(default_factory=dict)

    def line(self, path: Path) -> int | None:
        """Give the line of `path`, or of the nearest thing around it that has one."""
        for end in range(len(path), -1, -1):
            if (line := self.lines.get(path[:end])) is not None:
                return line
        return None

    def error(self, path: Path, message: str) -> ConfigError:
        """Make an error about `path`."""
        return ConfigError(message, file=self.file, line=self.line(path), key=dotted(path) or None)


def dotted(path: Path) -> str:
    """Write a path as people do: `plugins[2].parameters.threshold`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def read_documents(text: str, file: str) -> list[Document]:
    """Read all documents of a YAML text; empty ones have the value None. Raises `ConfigError`."""
    if len(text) > MAX_CHARACTERS:
        message = f"{len(text)} characters are more than a configuration may have ({MAX_CHARACTERS})"
        raise ConfigError(message, file=file)
    try:
        nodes = list(yaml.compose_all(text.removeprefix("\ufeff"), Loader=_Loader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = ", ".join(part for part in (error.context, error.problem) if part)
        raise _unreadable(file, problem, mark.line + 1 if mark else None) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1 if isinstance(error.position, int) else None
        raise _unreadable(file, str(error.reason), line) from None
    except (RecursionError, ValueError) as error:  # nested too deeply for the parser; an impossible character escape
        raise _unreadable(file, "nested too deeply" if isinstance(error, RecursionError) else str(error), None) from None
    return [_Reader(file).document(node) for node in nodes] or [Document(file, None)]


def _unreadable(file: str, problem: str, line: int | None) -> ConfigError:
    return ConfigError(f"not YAML: {problem}", file=file, line=line)


def read_document(text: str, file: str) -> Document:
    """Read a text that must hold one document. Raises `ConfigError`."""
    documents = [document for document in read_documents(text, file) if document.value is not None]
    if len(documents) > 1:
        message = "a second document starts here; the file must hold one: remove the line ---"
        raise ConfigError(message, file=file, line=documents[1].line(()))
    return documents[0] if documents else Document(file, None)


class _Reader:
    """Turns the nodes of one document into values."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._lines: dict[Path, int] = {}
        self._nodes = 0

    def document(self, node: yaml.Node | None) -> Document:
        value = None if node is None else self._value(node, ())
        return Document(self._file, value, self._lines)

    def _fail(self, node: yaml.Node, path: Path, message: str) -> ConfigError:
        return ConfigError(message, file=self._file, line=node.start_mark.line + 1, key=dotted(path) or None)

    def _value(self, node: yaml.Node, path: Path) -> Any:
        self._nodes += 1
        if self._nodes > MAX_NODES or len(path) > MAX_DEPTH:
            raise self._fail(node, path[:8], "too large once its anchors are filled in, or nested too deeply")
        self._lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self._value(item, (*path, index)) for index, item in enumerate(node.value)]
        return self._scalar(node, path)

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        values: dict[str, Any] = {}
        merged: list[yaml.Node] = []
        for key, item in node.value:
            if key.tag == _MERGE:
                merged += item.value if isinstance(item, yaml.SequenceNode) else [item]
                continue
            if not isinstance(key, yaml.ScalarNode):
                raise self._fail(key, path, "a key must be plain text")
            name = str(key.value)
            if name in values:
                raise self._fail(key, (*path, name), f"the key stands twice (first in line {self._lines[*path, name]})")
            self._lines[*path, name] = key.start_mark.line + 1
            values[name] = self._value(item, (*path, name))
        for source in merged:
            found = self._value(source, (*path, "<<"))
            if not isinstance(found, dict):
                raise self._fail(source, path, "<< takes a mapping, or a list of mappings")
            values = {**found, **values}
        return values

    def _scalar(self, node: yaml.Node, path: Path) -> Any:
        kind, text = node.tag.removeprefix("tag:yaml.org,2002:"), str(node.value)
        try:
            match kind:
                case "null":
                    return None
                case "bool":
                    return text.lower() == "true"
                case "int":
                    return int(text, 0 if text.startswith(("0x", "0o")) else 10)
                case "float":
                    lowered = text.lower()
                    return float(lowered.replace(".", "") if lowered.endswith(("inf", "nan")) else lowered)
        except ValueError:
            raise self._fail(node, path, f"{text[:64]!r} cannot be read as {kind}") from None
        return text
