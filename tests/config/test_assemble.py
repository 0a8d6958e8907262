from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from epp.api import Candidates, Data, Parameters, Request
from epp.config.assembly import ProfileSpec
from epp.errors import ConfigError

from .conftest import Build, errors


class Inner(Parameters):
    """Inside."""

    low: int | float = 0


class Outer(Parameters):
    """Outside."""

    ranges: list[Inner] = Field([])
    default_inner: Inner | None = None


class Ranged:
    """A filter."""

    def __init__(self, parameters: Outer) -> None:
        """Keep them."""
        self.parameters = parameters

    def filter(self, request: Request, pool: Candidates) -> Any:
        """Keep."""
        return request, pool


def shape(profile: ProfileSpec) -> tuple[list[str], list[tuple[str, float]], str]:
    """Give the names in a profile, scorers with their weights."""
    scorers = [(use.installed.name, use.weight) for use in profile.scorers]
    return [use.installed.name for use in profile.filters], scorers, profile.picker.name


def test_profiles_have_their_plugins_in_order_with_weights(build: Build) -> None:
    """A missing weight is 1; a filter says what happens when it raises."""
    found = build("""
plugins:
- {type: queue-scorer}
- {name: kv, type: kv-cache-utilization-scorer}
- {type: decode-filter}
- {type: random-picker}
schedulingProfiles:
- name: default
  plugins:
  - {pluginRef: kv, weight: 2.5}
  - {pluginRef: decode-filter, onError: reject}
  - {pluginRef: queue-scorer}
  - {pluginRef: random-picker}
""")
    assert [profile.name for profile in found.profiles] == ["default"]
    assert shape(found.profiles[0]) == (["decode-filter"], [("kv", 2.5), ("queue-scorer", 1.0)], "random-picker")
    assert found.profiles[0].filters[0].on_error == "reject"
    assert found.plugins["kv"].type == "kv-cache-utilization-scorer"
    assert found.warnings == ()


def test_without_profiles_there_is_one_of_everything(build: Build) -> None:
    """All filters, scorers and pickers, in the order of the list, weight 1."""
    found = build("plugins: [{type: queue-scorer}, {type: decode-filter}, {type: random-picker}, {type: admitter}]")
    assert shape(found.profiles[0]) == (["decode-filter"], [("queue-scorer", 1.0)], "random-picker")
    assert found.profiles[0].name == "default"
    assert [admitter.name for admitter in found.admitters] == ["admitter"]


def test_an_empty_configuration_still_runs(build: Build) -> None:
    """Picker, handler, parsers and the metrics source are added, and named as such."""
    found = build("")
    assert shape(found.profiles[0]) == ([], [], "max-score-picker")
    assert found.handler.name == "single-profile-handler"
    assert [parser.name for parser in found.parsers] == ["openai-parser", "passthrough-parser"]
    assert [(spec.source.name, [one.name for one in spec.extractors]) for spec in found.sources] == [
        ("metrics-data-source", ["core-metrics-extractor"])
    ]
    assert found.discovery is None
    assert set(found.created) == set(found.plugins)


def test_a_profile_without_a_picker_takes_the_configured_one(build: Build) -> None:
    """The first that is listed, so that the same file always means the same."""
    found = build("""
plugins: [{type: random-picker}, {name: other, type: max-score-picker}, {type: queue-scorer}]
schedulingProfiles: [{name: a, plugins: [{pluginRef: queue-scorer}]}]
""")
    assert found.profiles[0].picker.name == "random-picker"
    assert found.created[:1] == ("single-profile-handler",)


def test_an_instance_is_made_once_and_shared(build: Build) -> None:
    """Two profiles that name a plugin use the same one."""
    found = build("""
plugins: [{type: queue-scorer}, {type: all-profiles-handler}]
schedulingProfiles:
- {name: a, plugins: [{pluginRef: queue-scorer}]}
- {name: b, plugins: [{pluginRef: queue-scorer, weight: 3}]}
""")
    first, second = found.profiles
    assert first.scorers[0].installed is second.scorers[0].installed
    assert found.handler.name == "all-profiles-handler"


def test_a_plugin_is_given_its_parameters_and_services(build: Build, tmp_path: Path) -> None:
    """Validated parameters; name, clock, random generator and the configuration's directory."""
    found = build("plugins: [{name: t, type: tier-scorer, parameters: {threshold: 7}}]")
    plugin = found.plugins["t"].plugin
    assert plugin.parameters.threshold == 7
    assert found.plugins["t"].parameters is plugin.parameters
    assert (plugin.services.name, plugin.services.clock(), plugin.services.directory) == ("t", 7.0, tmp_path)


def test_what_a_plugin_needs_is_created(build: Build, types: dict[str, type]) -> None:
    """By the default producer of the data, unless something configured produces it."""
    assert [one.name for one in build("plugins: [{type: tier-scorer}]").producers] == ["warmth-producer"]
    named = build("plugins: [{type: tier-scorer}, {name: mine, type: warmth-producer}]")
    assert [one.name for one in named.producers] == ["mine"]
    del types["warmth-producer"]
    found = errors(build, "plugins:\n- {type: tier-scorer}")
    assert "unknown plugin type 'warmth-producer'" in found[0][2]


def test_the_producer_that_leases_count_with_is_always_there(build: Build, types: dict[str, type]) -> None:
    """Once, under whichever name."""
    types["inflight-load-producer"] = types["warmth-producer"]
    assert [one.name for one in build("").producers] == ["inflight-load-producer"]
    assert [one.name for one in build("plugins: [{name: load, type: inflight-load-producer}]").producers] == ["load"]


def test_data_that_nobody_can_produce_is_an_error(build: Build, types: dict[str, type]) -> None:
    """It would silently be missing at each request."""

    class Orphan(Data):
        """Nobody's."""

    class Wrong(Data):
        """Its default producer produces something else."""

        default_producer = "warmth-producer"

    types["orphan"] = type("OrphanScorer", (types["queue-scorer"],), {"needs": (Orphan,)})
    types["wrong"] = type("WrongScorer", (types["queue-scorer"],), {"needs": (Wrong,)})
    assert "needs Orphan, which no configured plugin produces" in errors(build, "plugins:\n- {type: orphan}")[0][2]
    found = errors(build, "plugins:\n- {type: wrong}")
    assert found == [(4, "plugins[0]", "'wrong' needs Wrong, which its default producer 'warmth-producer' does not produce")]


def test_a_parameter_that_names_a_producer_must_name_one(build: Build) -> None:
    """The reference takes any name and then finds nothing; a name that is a type is made."""
    text = "plugins:\n- type: tier-scorer\n  parameters:\n    warmthProducerName: {}\n- {{name: mine, type: warmth-producer}}\n"
    assert [one.name for one in build(text.format("mine")).producers] == ["mine"]
    assert {one.name for one in build(text.format("warmth-producer")).producers} == {"mine", "warmth-producer"}
    found = errors(build, text.format("mien"))
    assert found == [(6, "plugins[0].parameters.warmthProducerName", "no plugin is called 'mien'; did you mean 'mine'?")]
    assert "is a scorer, but a producer is needed" in errors(build, text.format("tier-scorer"))[0][2]


def test_a_plugin_that_raises_while_it_is_made_is_named(build: Build, types: dict[str, type]) -> None:
    """With the place in its code; its own ConfigError keeps its words."""

    def failing(_: Any) -> None:
        raise ZeroDivisionError

    def refusing(_: Any) -> None:
        message = "needs a better world"
        raise ConfigError(message, key="world")

    types["failing"] = type("Failing", (types["queue-scorer"],), {"__init__": failing})
    types["refusing"] = type("Refusing", (types["queue-scorer"],), {"__init__": refusing})
    found = errors(build, "plugins:\n- {type: failing}\n- {type: refusing}")
    assert (found[0][0], found[0][1]) == (4, "plugins[0]")
    assert "Failing could not be made" in found[0][2]
    assert "test_assemble.py" in found[0][2]
    assert found[1] == (5, "plugins[1]", "world: needs a better world")


def test_the_flow_control_section_is_checked_and_passed_over(build: Build) -> None:
    """Policies and detectors of the reference are known by their type or by a name given to them."""
    found = build("""
featureGates: [flowControl]
plugins:
- {type: queue-scorer}
- {name: det, type: concurrency-detector, parameters: {maxConcurrency: 64}}
flowControl:
  saturationDetector: {pluginRef: det}
  defaultRequestTTL: 30s
  defaultPriorityBand: {orderingPolicyRef: edf-ordering-policy}
  priorityBands: [{priority: 0, maxRequests: "500", fairnessPolicyRef: round-robin-fairness-policy}]
""")
    assert "det" not in found.plugins
    assert found.gates["flowControl"]
    assert len(found.warnings) == 3


def test_parsers_and_discovery_are_found(build: Build) -> None:
    """Parsers by type need no entry; the order is that of the file."""
    found = build("""
plugins: [{name: mine, type: openai-parser}, {name: files, type: file-discovery}]
requestHandler: {parsers: [{pluginRef: mine}, {pluginRef: passthrough-parser}]}
dataLayer: {discovery: {pluginRef: files}}
""")
    assert [parser.name for parser in found.parsers] == ["mine", "passthrough-parser"]
    assert found.discovery is not None
    assert found.discovery.name == "files"


def test_the_metrics_source_is_the_configured_one(build: Build) -> None:
    """Listed in plugins alone, under any name, or with other sources: it is not made twice."""
    alone = build("plugins: [{name: m, type: metrics-data-source}]")
    assert [(spec.source.name, [one.name for one in spec.extractors]) for spec in alone.sources] == [
        ("m", ["core-metrics-extractor"])
    ]
    placed = build("""
plugins: [{name: m, type: metrics-data-source}, {name: x, type: core-metrics-extractor}]
dataLayer: {sources: [{pluginRef: m, extractors: [{pluginRef: x}]}]}
""")
    assert [(spec.source.name, [one.name for one in spec.extractors]) for spec in placed.sources] == [("m", ["x"])]
    assert "metrics-data-source" not in placed.plugins
    without = build("plugins: [{type: metrics-data-source}]\ndataLayer: {injectDefaults: false}")
    assert without.sources == ()


def test_producers_run_in_the_order_of_their_data(build: Build, types: dict[str, type]) -> None:
    """Whatever the order in the file; `uses` counts when somebody produces it, and a circle is refused with its names."""

    class First(Data):
        """Made first."""

    class Second(Data):
        """Made of the first."""

    def producer(produces: type[Data], *needs: type[Data], uses: tuple[type[Data], ...] = ()) -> type:
        return type("P", (types["warmth-producer"],), {"produces": (produces,), "needs": needs, "uses": uses})

    class Third(Data):
        """Uses the second, if it is there."""

    types |= {"first": producer(First), "second": producer(Second, First), "third": producer(Third, uses=(Second,))}
    found = build("plugins: [{type: third}, {type: second}, {type: first}]")
    assert [one.name for one in found.producers] == ["first", "second", "third"]
    assert [one.name for one in build("plugins: [{type: third}]").producers] == ["third"]
    types["first"] = producer(First, Second)
    circle = errors(build, "plugins: [{type: first}, {type: second}]")
    assert circle[0][2] == "producers need each other in a circle: 'first' needs 'second' needs 'first'"


def test_a_users_own_class_is_made_from_its_file(build: Build, tmp_path: Path) -> None:
    """With typed parameters; errors in them point into the configuration."""
    (tmp_path / "mine.py").write_text(
        "from epp.api import *\n\n"
        "class P(Parameters):\n    label: str\n\n"
        "class Mine:\n"
        "    def __init__(self, parameters: P) -> None:\n        self.label = parameters.label\n\n"
        "    def score(self, request, pool):\n        return pool.full(1.0)\n"
    )
    found = build("plugins: [{name: mine, type: './mine.py:Mine', parameters: {label: tier}}]")
    assert found.plugins["mine"].plugin.label == "tier"
    assert errors(build, "plugins:\n- type: ./mine.py:Mine") == [(4, "plugins[0].parameters.label", "is required")]


def test_the_class_need_not_know_the_configuration(build: Build, types: dict[str, type]) -> None:
    """Any model of pydantic serves as parameters, also one with nested models, lists and unions."""
    types["ranged"] = Ranged
    made = build("plugins: [{type: ranged, parameters: {ranges: [{low: 2}], defaultInner: }}]").plugins["ranged"].plugin
    assert made.parameters.ranges[0].low == 2
    found = errors(
        build, "plugins:\n- type: ranged\n  parameters:\n    ranges:\n    - {low: x}\n    - {lo: 1}\n    defaultInner: 5"
    )
    assert [(line, key) for line, key, _ in found][:3] == [
        (7, "plugins[0].parameters.ranges[0].low"), (7, "plugins[0].parameters.ranges[0].low"),
        (8, "plugins[0].parameters.ranges[1].lo"),
    ]  # fmt: skip
    assert "did you mean 'low'?" in found[2][2]
