from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from epp.api import Parameters, Services
from epp.config.catalogue import ALIASES, EXTRACTORS, FLOW_CONTROL, REFERENCE, SOURCES
from epp.config.registry import DECIDING, VERBS, Registry, describe
from epp.errors import ConfigError

GOOD = '''
"""A plugin of a user."""
from __future__ import annotations

from typing import TYPE_CHECKING

from epp.api import Parameters

if TYPE_CHECKING:
    from epp.api import Candidates, Request, Scores


class MineParameters(Parameters):
    label: str = "tier"


class Mine:
    """Mine alone."""

    def __init__(self, parameters: MineParameters) -> None:
        self.parameters = parameters

    def score(self, request: Request, pool: Candidates) -> Scores:
        return pool.full(1.0)
'''


class Needy(Parameters):
    """Some parameters."""

    size: int = 1


class Watcher:
    """Looks on only."""

    def finished(self, request: Any, outcome: Any) -> None:
        """Look."""
        assert request is not outcome


class Both:
    """Filters and scores."""

    def filter(self, request: Any, pool: Any) -> Any:
        """Keep."""
        return request, pool

    def score(self, request: Any, pool: Any) -> Any:
        """Score."""
        return request, pool


def test_a_registered_type_is_found_by_its_name_or_an_older_one() -> None:
    """The described name is the newer one."""
    registry = Registry({"prefix-cache-scorer": Both})
    assert registry.find("prefix-cache-scorer", Path()).kinds == {"filter", "scorer"}
    assert registry.find("prefix-cache", Path()).name == "prefix-cache-scorer"
    assert "prefix-cache" in registry
    assert "queue-scorer" not in registry
    assert registry.names() == ["prefix-cache-scorer"]


def test_the_installed_entry_points_are_known_and_load() -> None:
    """Every built-in type is a plugin that can be described."""
    registry = Registry()
    assert "queue-scorer" in registry
    for name in registry.names():
        assert registry.find(name, Path()).kinds


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("queue-scorrer", "unknown plugin type 'queue-scorrer'; did you mean 'queue-scorer'?"),
        ("precise-prefix-cache-producer", "the reference's; this build does not have it"),
        ("utilization-detector", "flow control, which this build does not have yet"),
        ("xyz", "unknown plugin type 'xyz'; known: queue-scorer"),
    ],
)
def test_an_unknown_type_is_told_from_one_that_is_not_built(name: str, message: str) -> None:
    """A mistyped name gets the nearest one."""
    with pytest.raises(ConfigError) as caught:
        Registry({"queue-scorer": Both}).find(name, Path())
    assert message in str(caught.value)


def test_a_class_in_a_file_is_found_relative_to_the_directory(tmp_path: Path) -> None:
    """Also by an absolute path; annotations that only type checkers can evaluate do no harm; the file is loaded once."""
    (tmp_path / "mine.py").write_text(GOOD)
    registry = Registry({})
    found = registry.find("./mine.py:Mine", tmp_path)
    assert found.kinds == {"scorer"}
    assert found.parameters is not None
    assert found.parameters().model_dump() == {"label": "tier"}
    assert found.summary == "Mine alone."
    assert registry.find(f"{tmp_path}/mine.py:Mine", tmp_path).cls is found.cls
    assert registry.find("mine.py:Mine", tmp_path).cls is found.cls
    assert "mine" not in sys.modules


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import nothing_like_this", "mine.py:1: ModuleNotFoundError"),
        ("x = 1\ny = x +\n", "mine.py:2: SyntaxError"),
        ("x = 1\n\ndef f():\n    return 1 / 0\n\nf()\n", "mine.py:4: ZeroDivisionError"),
        ("import json\njson.loads('')\n", "mine.py:2: JSONDecodeError"),
        ("raise SystemError('no')", "mine.py:1: SystemError: no"),
    ],
)
def test_a_file_that_fails_is_named_with_its_line(tmp_path: Path, code: str, message: str) -> None:
    """The line is the user's, not that of a library it calls; nothing half loaded is left behind."""
    (tmp_path / "mine.py").write_text(code)
    before = set(sys.modules)
    with pytest.raises(ConfigError) as caught:
        Registry({}).find("./mine.py:Mine", tmp_path)
    assert message in str(caught.value)
    assert not [name for name in set(sys.modules) - before if name.startswith("_epp_plugin_mine")]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./no.py:Mine", "there is no file './no.py'"),
        ("./mine.py:Mien", "did you mean 'Mine'?"),
        ("./mine.py:TYPE_CHECKING", "not a class"),
        ("./mine.txt:Mine", "must end in .py"),
        ("no_such_package.module:Mine", "no module 'no_such_package'; for a class in a file write ./file.py:Mine"),
        ("json:JSONDecodr", "did you mean"),
        ("json:loads", "not a class"),
        ("json:JSONDecoder", "none of the verbs"),
    ],
)
def test_a_reference_that_leads_nowhere_says_what_to_write(tmp_path: Path, name: str, message: str) -> None:
    """For files and for modules."""
    (tmp_path / "mine.py").write_text(GOOD)
    (tmp_path / "mine.txt").write_text(GOOD)
    with pytest.raises(ConfigError) as caught:
        Registry({}).find(name, tmp_path)
    assert message in str(caught.value)


def test_a_class_in_a_module_is_found() -> None:
    """Named as package.module:Class."""
    assert Registry({}).find("epp_plugins.scorers.queue:QueueScorer", Path()).kinds == {"scorer"}


def test_a_module_that_lacks_another_says_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The missing module is not the named one."""
    (tmp_path / "lacking_module_for_epp.py").write_text("import not_installed_anywhere")
    (tmp_path / "failing_module_for_epp.py").write_text("\n1 / 0")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match="needs the module 'not_installed_anywhere'"):
        Registry({}).find("lacking_module_for_epp:X", Path())
    with pytest.raises(ConfigError, match=r"failing_module_for_epp.py:2: ZeroDivisionError"):
        Registry({}).find("failing_module_for_epp:X", Path())


def test_a_class_without_a_verb_is_refused_with_the_verbs() -> None:
    """It would be configured and do nothing."""
    with pytest.raises(ConfigError, match=r"class Needy has none of the verbs.*score.*profiles\+primary.*finished"):
        describe("needy", Needy)


def test_a_class_that_only_observes_is_a_plugin() -> None:
    """It learns from what became of requests."""
    assert describe("watcher", Watcher).kinds == {"observer"}


@pytest.mark.parametrize("verb", [*DECIDING])
def test_a_verb_that_is_a_coroutine_is_refused(verb: str) -> None:
    """It would never be awaited, so the plugin would fail with each request; the start says so instead."""

    async def waiting(self: Any, *arguments: Any) -> None: ...
    async def trickling(self: Any, *arguments: Any) -> Any:
        yield

    class Called:
        async def __call__(self, *arguments: Any) -> None:
            """Wait."""

    for found in (waiting, trickling, staticmethod(waiting), Called()):
        odd = type("Odd", (Both,), {verb: found})
        with pytest.raises(ConfigError, match=rf"Odd\.{verb} is async; a verb decides without waiting"):
            describe("odd", odd)


def test_every_verb_but_that_of_discovery_decides() -> None:
    """A new kind's verb is among those that may not wait."""
    verbs = {verb for verbs in VERBS.values() for verb in verbs}
    assert {*DECIDING} == verbs - {"run"} | {"usage", "routed", "first_token", "finished", "departed"}


def test_a_discovery_must_be_a_coroutine() -> None:
    """One that is none would stop the event loop, and with it the picker."""

    def run(self: Any, update: Any) -> None: ...
    async def waiting(self: Any, update: Any) -> None: ...
    @functools.wraps(waiting)
    def wrapped(self: Any, update: Any) -> Any:
        return waiting(self, update)

    with pytest.raises(ConfigError, match=r"Finder\.run is not async; .* `async def run\(self, update\)`"):
        describe("finder", type("Finder", (), {"run": run}))
    for good in (waiting, wrapped):
        assert describe("finder", type("Finder", (), {"run": good})).kinds == {"discovery"}


def with_constructor(constructor: Callable[..., None]) -> type:
    """Make a scorer with this constructor."""
    return type("Odd", (Both,), {"__init__": constructor})


def test_the_constructor_says_what_a_plugin_is_given() -> None:
    """Nothing, parameters, services, or both; more may be there if it is optional."""

    def nothing(self: Any) -> None: ...
    def parameters(self: Any, parameters: Needy) -> None: ...
    def both(self: Any, parameters: Needy, services: Services) -> None: ...
    def services(self: Any, services: Services, more: int = 5) -> None: ...

    found = [describe("odd", with_constructor(one)) for one in (nothing, parameters, both, services)]
    assert [(one.parameters, one.takes_services) for one in found] == [(None, False), (Needy, False), (Needy, True), (None, True)]
    assert describe("both", Both).parameters is None


def test_a_constructor_that_wants_something_else_is_refused() -> None:
    """The error names the argument, or the missing annotation."""

    def other(self: Any, threshold: int) -> None: ...
    def bare(self: Any, parameters) -> None: ...  # type: ignore[no-untyped-def]  # noqa: ANN001
    def wrong(self: Any, parameters: dict[str, int]) -> None: ...
    def lost(self: Any, parameters: NotImported) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(ConfigError, match="wants 'threshold'"):
        describe("odd", with_constructor(other))
    for constructor in (bare, wrong, lost):
        with pytest.raises(ConfigError, match=r"annotate 'parameters' with a subclass of epp.api.Parameters"):
            describe("odd", with_constructor(constructor))


def test_data_must_be_given_as_classes() -> None:
    """A name in quotes would order nothing."""
    odd = type("Odd", (Both,), {"needs": ("PrefixMatch",)})
    with pytest.raises(ConfigError, match=r"Odd.needs must be a tuple of subclasses of epp.api.Data"):
        describe("odd", odd)


def test_parts_of_the_data_layer_need_no_verb() -> None:
    """They have parameters that the scraper reads."""
    assert describe("metrics-data-source", Needy).kinds == {"data source"}
    assert describe("core-metrics-extractor", Needy).kinds == {"extractor"}


def test_the_catalogue_is_consistent() -> None:
    """Older names lead to types of the reference, and no name is older and current."""
    assert set(ALIASES.values()) <= REFERENCE
    assert not set(ALIASES) & REFERENCE
    assert FLOW_CONTROL | SOURCES | EXTRACTORS <= REFERENCE
