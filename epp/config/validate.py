"""pydantic's findings in the words of a configuration file: the path in the document, and what to write there instead.

Knows nothing of plugins; it is used for the configuration itself and for the parameters of every plugin.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeVar, get_args

from pydantic import AliasChoices, AliasPath, BaseModel, ValidationError

from epp.config.document import Path
from epp.config.problems import Problems, nearest

M = TypeVar("M", bound=BaseModel)

_SHOWN = 60
_WORDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "string": "text"}


def validated(model: type[M], value: Any, problems: Problems, path: Path) -> M | None:
    """Make `model` of `value`, which stands at `path`; None when it could not be, with the reasons noted in `problems`.

    A known key without a value (`dataLayer:`) means what leaving it out means, as in the reference.
    """
    try:
        return model.model_validate(_without_nulls(model, value), by_alias=True)
    except ValidationError as error:
        for found in error.errors(include_url=False, include_context=True):
            _note(model, value, found, problems, path)
    except RecursionError:
        problems.error(path, "nested too deeply")
    return None


def known_keys(model: type[BaseModel]) -> dict[str, Any]:
    """Give every key that `model` reads, with the annotation of its field."""
    keys: dict[str, Any] = {}
    for name, info in model.model_fields.items():
        alias = info.validation_alias or info.alias or name
        choices = alias.choices if isinstance(alias, AliasChoices) else [alias]
        for choice in choices:
            key = choice.path[0] if isinstance(choice, AliasPath) else choice
            if isinstance(key, str):
                keys[key] = info.annotation
        if model.model_config.get("validate_by_name") or model.model_config.get("populate_by_name"):
            keys.setdefault(name, info.annotation)
    return keys


def shown_keys(model: type[BaseModel]) -> list[str]:
    """Give the keys to suggest: one spelling a field, the first."""
    shown = []
    for name, info in model.model_fields.items():
        alias = info.validation_alias or info.alias or name
        first = alias.choices[0] if isinstance(alias, AliasChoices) else alias
        shown.append(str(first.path[0]) if isinstance(first, AliasPath) else first)
    return shown


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """Find the models inside an annotation such as `list[PriorityBand] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in models_in(argument)]


def _without_nulls(annotation: Any, value: Any) -> Any:
    """Leave out known keys whose value is null, wherever a model is expected."""
    models = models_in(annotation)
    if not models:
        return value
    if isinstance(value, list):
        return [_without_nulls(annotation, item) for item in value]
    if not isinstance(value, Mapping):
        return value
    keys = {key: inner for model in models for key, inner in known_keys(model).items()}
    return {key: _without_nulls(keys.get(key), item) for key, item in value.items() if item is not None or key not in keys}


def _note(model: type[BaseModel], value: Any, found: Any, problems: Problems, path: Path) -> None:
    kind, location = found["type"], tuple(found["loc"])
    if kind in ("missing", "extra_forbidden"):
        place = (*_existing(value, location[:-1]), location[-1])
    else:
        place = _existing(value, location)
    if kind == "extra_forbidden":
        model = _model_at(model, location[:-1]) or model
        message = f"unknown field{nearest(str(location[-1]), shown_keys(model))}"
    elif kind == "missing":
        message = "is required"
    elif kind == "literal_error":
        choices = found["ctx"]["expected"].replace("'", "")
        message = f"is {_show(found['input'])}, but must be {choices}"
    elif kind == "value_error":
        message = str(found["ctx"]["error"])
    elif kind in ("model_type", "dict_type"):
        message = f"must be a mapping of keys to values, not {_show(found['input'])}"
    elif kind == "list_type":
        message = f"must be a list, not {_show(found['input'])}"
    elif kind.endswith(("_parsing", "_type", "_from_float")) and kind.split("_")[0] in _WORDS:
        message = f"must be {_WORDS[kind.split('_')[0]]}, not {_show(found['input'])}"
    else:
        message = f"{found['msg'][:1].lower()}{found['msg'][1:]}, not {_show(found['input'])}"
    problems.error((*path, *place), message)


def _existing(value: Any, location: Path) -> Path:
    """Cut `location` where the document has nothing more: pydantic adds names of its own, such as members of a union."""
    for depth, part in enumerate(location):
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            return location[:depth]
    return location


def _model_at(model: type[BaseModel], location: Path) -> type[BaseModel] | None:
    """Find the model at `location` inside `model`."""
    found: type[BaseModel] | None = model
    for part in location:
        if isinstance(part, int):
            continue
        inside = models_in(known_keys(found).get(part)) if found else []
        if inside:
            found = inside[0]
    return found


def _show(value: Any) -> str:
    """Show a value as the file has it, shortened."""
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return "a list"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
