"""Which LoRA adapters belong to which base model, from a file.

Two forms, several documents a file, mixed as you like: a mapping `base: [adapters]`, or the ConfigMaps of the body based
router (`data: {baseModel, adapters}`, the adapters as YAML text), also as a `List`. A name stands for one thing in the
whole file: an adapter has one base, and a base is no adapter.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeGuard

from epp.config.document import Document, Path, dotted, read_document, read_documents
from epp.config.problems import Problems, raise_together
from epp.errors import ConfigError


class AdapterMap:
    """Knows the base model of each name. Unchanging; a new file gives a new map."""

    __slots__ = ("_bases",)

    def __init__(self, bases: Mapping[str, Sequence[str]] | None = None) -> None:
        """Take each base model's adapters; names must be unique."""
        self._bases = {adapter: base for base, adapters in (bases or {}).items() for adapter in (base, *adapters)}

    def base_of(self, model: str) -> str:
        """Give the base of an adapter, a known base itself, and the empty text for a name nobody mentioned."""
        return self._bases.get(model, "")

    @property
    def names(self) -> Iterable[str]:
        """Every name that is known, bases among them."""
        return self._bases.keys()

    def __len__(self) -> int:
        """Count the names that are known, bases among them."""
        return len(self._bases)


def parse_adapters(text: str, file: str) -> AdapterMap:
    """Read the text of an adapters file. Raises `ConfigError`, with every error and its line."""
    found: dict[str, list[str]] = {}
    owners: dict[str, tuple[str, str]] = {}  # name → what it is, and where
    errors: list[ConfigError] = []
    for document in read_documents(text, file):
        problems = Problems(document)
        for base, adapters, path in _entries(document, problems):
            _claim(base, "a base model", path, owners, problems)
            listed = found.setdefault(base, [])
            for name, place in adapters:
                if _claim(name, f"an adapter of {base!r}", place, owners, problems):
                    listed.append(name)
        errors += problems.errors
    raise_together(errors)
    return AdapterMap(found)


def _claim(name: str, what: str, path: Path, owners: dict[str, tuple[str, str]], problems: Problems) -> bool:
    """Note that `name` is `what`; an error when it is something else already, or the same adapter again."""
    taken = owners.get(name)
    if taken is None:
        line = problems.document.line(path)
        owners[name] = (what, f"line {line}" if line else dotted(path))
        return True
    if taken[0] != what or what != "a base model":
        problems.error(path, f"{name!r} is {taken[0]} already ({taken[1]}); every name may stand once")
    return False


Entry = tuple[str, list[tuple[str, Path]], Path]


def _entries(document: Document, problems: Problems) -> Iterator[Entry]:
    value = document.value
    if value is None:
        return
    if not isinstance(value, Mapping):
        problems.error((), "must be a mapping: base model to list of adapters")
    elif value.get("kind") == "List" and isinstance(value.get("items"), list):
        for index, item in enumerate(value["items"]):
            yield from _config_map(item, ("items", index), problems)
    elif "data" in value and not isinstance(value["data"], list):
        yield from _config_map(value, (), problems)
    else:
        for base, adapters in value.items():
            if _named(base, (base,), problems):
                yield base, _names(adapters, (base,), problems), (base,)


def _config_map(value: Any, path: Path, problems: Problems) -> Iterator[Entry]:
    data = value.get("data") if isinstance(value, Mapping) else None
    if not isinstance(data, Mapping):
        problems.error(path, "has no data with baseModel and adapters")
        return
    base, adapters = data.get("baseModel"), data.get("adapters")
    place = (*path, "data", "baseModel")
    if not _named(base, place, problems):
        return
    if isinstance(adapters, str):  # YAML within YAML, as ConfigMaps hold text only
        try:
            adapters = read_document(adapters, problems.document.file).value
        except ConfigError as error:
            problems.error((*path, "data", "adapters"), error.message)
            return
    yield base, _names(adapters, (*path, "data", "adapters"), problems), place


def _names(adapters: Any, path: Path, problems: Problems) -> list[tuple[str, Path]]:
    if adapters is None:
        return []
    if not isinstance(adapters, list):
        problems.error(path, "must be a list of adapter names")
        return []
    return [(name, (*path, index)) for index, name in enumerate(adapters) if _named(name, (*path, index), problems)]


def _named(name: object, path: Path, problems: Problems) -> TypeGuard[str]:
    if isinstance(name, str) and name.strip() and name.isprintable():  # it becomes a header
        return True
    problems.error(path, f"must be a name, not {name!r}" if name is not None else "is required: a name")
    return False
