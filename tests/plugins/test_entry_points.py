"""The built-in plugins, as `pyproject.toml` announces them."""

from __future__ import annotations

import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import epp
from epp import api

ROOT = Path(epp.__file__).parent.parent
DECLARED: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["epp.plugins"]
OURS = {name: target for name, target in DECLARED.items() if target.startswith("epp_plugins.")}
VERBS = {
    "filters": api.Filter,
    "scorers": api.Scorer,
    "pickers": api.Picker,
    "profiles": api.ProfileHandler,
    "producers": api.Producer,
}


def load(target: str) -> Any:
    """Load what `module:name` names."""
    module, _, name = target.partition(":")
    return getattr(import_module(module), name)


@pytest.mark.parametrize(("name", "target"), OURS.items(), ids=OURS)
def test_each_is_of_the_kind_of_its_directory(name: str, target: str) -> None:
    """The class exists, has the verb of its directory's kind, and says in its docstring what it does."""
    plugin = load(target)
    verbs = [verb for verb in vars(VERBS[target.split(".")[1]]) if verb in {"filter", "score", "pick", "profiles", "produce"}]
    assert verbs
    assert all(callable(getattr(plugin, verb, None)) for verb in verbs), name
    assert plugin.__doc__


def test_every_plugin_module_is_announced() -> None:
    """No plugin lies in a directory without a name to configure it by."""
    directory = ROOT / "plugins" / "epp_plugins"
    modules = {f"epp_plugins.{path.parent.name}.{path.stem}" for path in directory.glob("*/*.py") if path.stem != "__init__"}
    assert modules == {target.partition(":")[0] for target in OURS.values()}


def test_old_names_are_the_same_plugin() -> None:
    """A deprecated type means what it meant."""
    assert OURS["by-label-selector"] == OURS["label-selector-filter"]


def test_defaults_of_data_are_announced() -> None:
    """What is made when data is needed and nobody produces it exists and produces that data."""
    for kind in (api.PrefixMatch, api.TokenLoad):
        assert kind in load(OURS[kind.default_producer]).produces


def test_built_ins_import_nothing_of_the_picker_but_its_api() -> None:
    """They are ordinary plugins: what they can do, a user's can."""
    for path in (ROOT / "plugins" / "epp_plugins").rglob("*.py"):
        lines = [line for line in path.read_text().splitlines() if line.startswith(("import epp", "from epp"))]
        assert all(line.startswith(("from epp.api import", "from epp_plugins.")) for line in lines), path
