"""The guide to writing plugins: every example in it is taken from the page as it stands, and run."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any, get_type_hints

import pytest
import yaml

import epp
from epp.api import Pool, Rejection, Request, Services
from epp.config.assembly import Installed, ProfileSpec, Use
from epp.scheduling.scheduler import Scheduler
from epp.telemetry import Telemetry

GUIDE = (Path(epp.__file__).parent.parent / "docs" / "plugins.md").read_text()
BLOCKS: dict[str, str] = dict(re.findall(r"```(?:python|yaml)\n# file: (\S+)\n(.*?)```", GUIDE, re.DOTALL))
MODULES = [name for name in BLOCKS if name.endswith(".py")]
CONFIGURATIONS = [name for name in BLOCKS if name.endswith(".yaml")]


@pytest.fixture
def guide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Write all examples into a directory that modules can be imported from."""
    for name, code in BLOCKS.items():
        (tmp_path / name).write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    names = [Path(name).stem for name in MODULES]
    assert not set(names) & set(sys.modules)
    yield tmp_path
    for name in names:
        sys.modules.pop(name, None)


def load(kind: str) -> Any:
    """Find the class of a plugin type as the configuration spells it."""
    if kind.startswith("./"):
        file, _, name = kind.removeprefix("./").partition(":")
        return getattr(importlib.import_module(Path(file).stem), name)
    (found,) = entry_points(group="epp.plugins", name=kind)
    return found.load()


def make(entry: dict[str, Any], directory: Path) -> Installed:
    """Make the plugin of one entry under `plugins`."""
    kind, name = load(entry["type"]), entry.get("name", entry["type"])
    wanted = list(inspect.signature(kind).parameters)
    arguments: dict[str, Any] = {}
    if "parameters" in wanted:
        arguments["parameters"] = get_type_hints(kind.__init__)["parameters"].model_validate(entry.get("parameters", {}))
    if "services" in wanted:
        arguments["services"] = Services(name, lambda: 0.0, Random(1), directory)
    return Installed(name, entry["type"], kind(**arguments))


class Configured:
    """The scheduler and the plugins that a configuration of the guide describes."""

    def __init__(self, file: Path) -> None:
        """Read and build it."""
        config = yaml.safe_load(file.read_text())
        self.plugins = {one.name: one for one in (make(entry, file.parent) for entry in config["plugins"])}
        spare_picker = make({"type": "max-score-picker"}, file.parent)
        spare_handler = make({"type": "single-profile-handler"}, file.parent)
        handler = next((one for one in self.plugins.values() if hasattr(one.plugin, "profiles")), spare_handler)
        profiles = []
        for profile in config["schedulingProfiles"]:
            uses = [Use(self.plugins[use["pluginRef"]], use.get("weight", 1.0)) for use in profile["plugins"]]
            filters = tuple(use for use in uses if hasattr(use.installed.plugin, "filter"))
            scorers = tuple(use for use in uses if hasattr(use.installed.plugin, "score"))
            picker = next((use.installed for use in uses if hasattr(use.installed.plugin, "pick")), spare_picker)
            profiles.append(ProfileSpec(profile["name"], filters, scorers, picker))
        self.scheduler = Scheduler(profiles, handler, telemetry=Strict(), random=Random(1))

    def ask(self, pool: Pool, *, tokens: int = 10, headers: Mapping[str, str] | None = None) -> Any:
        """Send one request through admitters, producers and the scheduler; give its pick."""
        request = Request("1", "POST", "/", headers or {})
        request.parsed.prompt_tokens = tokens
        candidates = pool.candidates()
        for verb in ("admit", "produce"):
            for one in self.plugins.values():
                if hasattr(one.plugin, verb):
                    getattr(one.plugin, verb)(request, candidates)
        pick = self.scheduler.schedule(request, candidates).primary
        for one in self.plugins.values():
            if hasattr(one.plugin, "routed"):
                one.plugin.routed(request, pick.endpoints)
        return pick

    def rows(self, pool: Pool, **headers: str) -> list[int]:
        """Send one request and name the rows that were chosen."""
        return [
            endpoint.row
            for endpoint in self.ask(pool, headers={name.replace("_", "-"): value for name, value in headers.items()}).endpoints
        ]


class Strict(Telemetry):
    """Lets no failure of a plugin pass."""

    def plugin_failed(self, point: str, kind: str, name: str) -> None:
        """Fail the test."""
        pytest.fail(f"{point} {name} of type {kind} failed")


def test_the_page_has_examples() -> None:
    """The examples are found, each module is used by a configuration or is a test, and no Python is left out."""
    assert len(MODULES) == GUIDE.count("```python") == 8
    assert len(CONFIGURATIONS) == GUIDE.count("```yaml") == 7
    used = "".join(BLOCKS[name] for name in CONFIGURATIONS)
    assert all(name in used or name.startswith("test_") for name in MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_each_module_imports_only_the_api(guide: Path, name: str) -> None:
    """The examples keep the rule they teach."""
    module = importlib.import_module((guide / name).stem)
    assert isinstance(module, ModuleType)
    assert set(re.findall(r"^from (epp\S*) import", BLOCKS[name], re.MULTILINE)) == {"epp.api"}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_each_configuration_chooses(guide: Path, pool: Any, name: str) -> None:
    """Each example makes a choice for an ordinary request, over endpoints known and unknown, without any failure."""
    some = pool(labels=[{}, {"tier": "gold"}, {"zone": "a"}], waiting=[float("nan"), 2.0, 3.0], kv_usage=[0.5, 0.5, float("nan")])
    assert Configured(guide / name).rows(some)


def test_the_tier_counts(guide: Path, pool: Any) -> None:
    """Gold is preferred while the queues are equal, and is only one of two voices."""
    configured = Configured(guide / "tier.yaml")
    labels = [{}, {"tier": "gold"}]
    assert configured.rows(pool(labels=labels, waiting=[1.0, 1.0])) == [1]
    assert configured.rows(pool(labels=labels, waiting=[1.0, 9.0])) == [0]


def test_the_zone_counts(guide: Path, pool: Any) -> None:
    """The configured header and label are the ones compared."""
    labels = [{"zone": "a"}, {"zone": "b"}, {}]
    assert Configured(guide / "zone.yaml").rows(pool(labels=labels), x_client_zone="b") == [1]


def test_long_queues_are_left_out(guide: Path, pool: Any) -> None:
    """The filter keeps short queues and the unknown, and leaves nobody when all are long."""
    configured = Configured(guide / "short_queue.yaml")
    assert configured.rows(pool(waiting=[9.0, 5.0, 6.0], kv_usage=[0.0, 0.9, 0.0])) == [1]
    assert configured.rows(pool(waiting=[9.0, float("nan")], kv_usage=[0.0, float("nan")])) == [1]
    with pytest.raises(Rejection) as caught:
        configured.rows(pool(waiting=[9.0, 9.0]))
    assert caught.value.status == 429


def test_sessions_stay(guide: Path, pool: Any) -> None:
    """A session returns to its endpoint against a shorter queue elsewhere, until the endpoint has left."""
    configured, some = Configured(guide / "session.yaml"), pool(waiting=[0.0, 9.0])
    assert configured.rows(some, x_session_id="s") == [0]
    some.columns["waiting"][:] = [9.0, 0.0]
    assert configured.rows(some, x_session_id="s") == [0]
    assert configured.rows(some, x_session_id="t") == [1]
    some.update([some.endpoints[1].spec])
    assert configured.rows(some, x_session_id="s") == [0]


def test_long_prompts_are_refused(guide: Path, pool: Any) -> None:
    """The admitter lets the limit pass and refuses what is above, naming both numbers."""
    configured, some = Configured(guide / "prompt_limit.yaml"), pool(2)
    assert configured.ask(some, tokens=100).endpoints
    with pytest.raises(Rejection, match=r"about 101 tokens; at most 100") as caught:
        configured.ask(some, tokens=101)
    assert caught.value.status == 413


def test_the_better_of_two_is_taken(guide: Path, pool: Any) -> None:
    """The worst of three is never the choice, and there is one fallback."""
    configured, some = Configured(guide / "two_choices.yaml"), pool(inflight_requests=[0.0, 5.0, 9.0])
    picks = [configured.rows(some) for _ in range(200)]
    assert {pick[0] for pick in picks} == {0, 1}
    assert {len(pick) for pick in picks} == {2}


def test_the_header_chooses_the_profile(guide: Path, pool: Any) -> None:
    """One profile runs, the one that the header asks for."""
    configured, some = Configured(guide / "by_header.yaml"), pool(2)
    assert configured.ask(some).profile == "default"
    assert configured.ask(some, headers={"x-batch": "1"}).profile == "batch"


def test_the_example_of_a_test_passes(guide: Path) -> None:
    """The test that the guide shows holds."""
    importlib.import_module((guide / "test_tier.py").stem).test_gold_is_preferred()
