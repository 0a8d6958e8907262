from __future__ import annotations

from pathlib import Path

import pytest

from epp.config.load import Loaded, load_default, load_file, load_for, load_text
from epp.config.options import ServeOptions
from epp.config.problems import ConfigErrors
from epp.errors import ConfigError

HEAD = "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\n"

EVERYTHING = """
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
featureGates: [flowControl, haPopulateNonLeaderDatastore=false]
plugins:
- {type: queue-scorer}
- {name: prefix, type: prefix-cache-scorer, parameters: {matchLengthWeight: 0.5}}
- {type: file-discovery, parameters: {path: endpoints.yaml, watchFile: true}}
- {name: det, type: concurrency-detector, parameters: {maxConcurrency: 64}}
schedulingProfiles:
- name: default
  plugins:
  - {pluginRef: queue-scorer, weight: 2}
  - {pluginRef: prefix, weight: 1.5}
dataLayer:
  injectDefaults: false
  sources:
  - pluginRef: metrics-data-source
    extractors: [{pluginRef: core-metrics-extractor}]
  discovery: {pluginRef: file-discovery}
  peerDiscovery: {pluginRef: peers}
  crossReplicaSyncerPluginRef: syncer
  crossReplicaSyncInterval: 5s
flowControl:
  maxBytes: 10Gi
  maxRequests: 1000
  defaultRequestTTL: 30s
  noEndpointRequestTTL: 5m
  defaultPriorityBand: {maxBytes: "500M", fairnessPolicyRef: round-robin-fairness-policy}
  defaultNegativePriorityBand: {maxRequests: "10"}
  priorityBands:
  - {priority: 10, maxRequests: "1k", orderingPolicyRef: edf-ordering-policy}
  usageLimitPolicyPluginRef: static-usage-limit-policy
  saturationDetector: {pluginRef: det}
  enableEviction: true
requestHandler:
  parsers: [{pluginRef: openai-parser}, {pluginRef: passthrough-parser}]
"""


def errors(text: str) -> list[tuple[int | None, str | None, str]]:
    """Give line, key and message of every error in `text`."""
    with pytest.raises(ConfigError) as caught:
        load_text(text, "c.yaml")
    error = caught.value
    return [(one.line, one.key, one.message) for one in (error.errors if isinstance(error, ConfigErrors) else [error])]


def loaded(text: str) -> Loaded:
    """Load a text whose first two lines are given."""
    return load_text(HEAD + text, "c.yaml")


def test_every_field_of_the_reference_is_read() -> None:
    """With its unit: durations as seconds, quantities as whole numbers."""
    found = load_text(EVERYTHING, "c.yaml")
    flow = found.config.flow_control
    assert flow is not None
    assert (flow.max_bytes, flow.max_requests, flow.default_request_ttl, flow.no_endpoint_request_ttl) == (
        10 * 2**30,
        1000,
        30,
        300,
    )
    assert flow.priority_bands[0].max_requests == 1000
    assert flow.default_priority_band is not None
    assert flow.default_priority_band.max_bytes == 500_000_000
    assert found.gates == {"flowControl": True, "haPopulateNonLeaderDatastore": False}
    assert found.config.plugins[1].reference == "prefix"
    assert found.config.plugins[0].reference == "queue-scorer"
    assert found.data_layer.cross_replica_sync_interval == 5
    assert found.warnings == ()


def test_nothing_gives_the_references_defaults() -> None:
    """An empty file does too, and says so."""
    assert [plugin.type for plugin in load_default().config.plugins] == [
        "queue-scorer", "kv-cache-utilization-scorer", "prefix-cache-scorer",
    ]  # fmt: skip
    assert [use.weight for use in load_default().config.scheduling_profiles[0].plugins] == [2, 2, 3]
    empty = load_text("# nothing yet\n", "c.yaml")
    assert empty.config == load_default().config
    assert "c.yaml" in empty.warnings[0]


def test_several_errors_are_told_together_each_with_its_line() -> None:
    """One attempt shows all of it, in the order of the lines."""
    text = HEAD + (
        "featureGates: [flowControll]\n"
        "plugins:\n"
        "- {typ: a}\n"
        "- {type: b}\n"
        "- {type: b}\n"
        "dataLayer: {sorces: []}\n"
    )  # fmt: skip
    found = errors(text)
    assert [(line, key) for line, key, _ in found] == [
        (3, "featureGates[0]"), (5, "plugins[0].type"), (5, "plugins[0].typ"), (7, "plugins[2].type"), (8, "dataLayer.sorces"),
    ]  # fmt: skip
    assert "did you mean 'flowControl'?" in found[0][2]
    assert found[1][2] == "is required"
    assert "did you mean 'type'?" in found[2][2]
    assert "plugins[1]" in found[3][2]
    assert "did you mean 'sources'?" in found[4][2]
    with pytest.raises(ConfigError, match=r"5 errors:\n  c.yaml:3: featureGates"):
        load_text(text, "c.yaml")


@pytest.mark.parametrize(
    ("text", "line", "key", "message"),
    [
        ("plugins: 5", 3, "plugins", "must be a list, not 5"),
        ("plugins: [5]", 3, "plugins[0]", "must be a mapping of keys to values, not 5"),
        ("plugins: [{type: [a]}]", 3, "plugins[0].type", "must be text, not a list"),
        ("plugins: [{type: ''}]", 3, "plugins[0].type", "at least 1 character"),
        ("plugins: [{type: a, parameters: [1]}]", 3, "plugins[0].parameters", "must be a mapping"),
        ("dataLayer: {injectDefaults: perhaps}", 3, "dataLayer.injectDefaults", 'must be true or false, not "perhaps"'),
        ("flowControl:\n  defaultRequestTTL: 60", 4, "flowControl.defaultRequestTTL", "write text with a unit"),
        ("flowControl:\n  defaultRequestTTL: 60d", 4, "flowControl.defaultRequestTTL", "is not a duration"),
        ("flowControl:\n  noEndpointRequestTTL: -1s", 4, "flowControl.noEndpointRequestTTL", "negative"),
        ("flowControl:\n  maxBytes: lots", 4, "flowControl.maxBytes", "is not a quantity"),
        ("flowControl:\n  maxBytes: -5", 4, "flowControl.maxBytes", "negative"),
        ("flowControl:\n  maxBytes: [5]", 4, "flowControl.maxBytes", "is not a quantity"),
        ("flowControl: {priorityBands: [{priority: 1.5}]}", 3, "flowControl.priorityBands[0].priority", "whole number"),
        ("schedulingProfiles: [{plugins: []}]", 3, "schedulingProfiles[0].name", "is required"),
        ("schedulingProfiles:\n- name: a\n- name: a", 5, "schedulingProfiles[1].name", "taken by schedulingProfiles[0]"),
        (
            "schedulingProfiles: [{name: a, plugins: [{pluginRef: b, weight: .nan}]}]",
            3, "schedulingProfiles[0].plugins[0].weight", "finite",
        ),
        (
            "schedulingProfiles: [{name: a, plugins: [{pluginRef: b, onError: explode}]}]",
            3, "schedulingProfiles[0].plugins[0].onError", "must be skip or reject",
        ),
        ("featureGates: [flowControl=maybe]", 3, "featureGates[0]", "flowControl=true or flowControl=false"),
        ("featureGates: flowControl", 3, "featureGates", "must be a list"),
        ("data: {}\ndataLayer: {}", 3, "data", "remove one"),
        ("metadata: {name: x}", 3, "metadata", "unknown field"),
    ],
)  # fmt: skip
def test_an_error_names_line_key_and_what_to_write(text: str, line: int, key: str, message: str) -> None:
    """For every kind of mistake."""
    found = errors(HEAD + text)
    assert [(found_line, found_key) for found_line, found_key, _ in found] == [(line, key)]
    assert message in found[0][2]


def test_a_file_says_what_it_is() -> None:
    """Without version and kind, or with others, the error says what to write; the rest is checked all the same."""
    found = errors("plugins: 5\n")
    assert [(key, message) for _, key, message in found][:2] == [
        ("apiVersion", "is required: write apiVersion: llm-d.ai/v1alpha1"),
        ("kind", "is required: write kind: EndpointPickerConfig"),
    ]
    assert found[2][1] == "plugins"
    other = errors("apiVersion: llm-d.ai/v1alpha9\nkind: Deployment\n")
    assert "must be llm-d.ai/v1alpha1 or inference.networking.x-k8s.io/v1alpha1" in other[0][2]
    assert other[1][1] == "kind"


@pytest.mark.parametrize("text", ["- a\n- b\n", "just text\n", "5\n"])
def test_what_is_no_mapping_is_refused(text: str) -> None:
    """Whatever else the file is."""
    assert "must be a mapping" in errors(text)[0][2]


def test_a_key_without_a_value_counts_as_left_out() -> None:
    """As in the reference, at any depth."""
    found = loaded("dataLayer:\nflowControl:\n  maxBytes:\n  saturationDetector:\nplugins:\n- type: a\n  name:\n  parameters:\n")
    assert found.config.data_layer is None
    assert found.config.plugins[0].reference == "a"
    assert found.config.plugins[0].parameters == {}


@pytest.mark.parametrize(
    ("gates", "flow"), [("flowControl", True), ("flowControl=true", True), ("flowControl=False", False), ("flowControl=0", False)]
)
def test_a_gate_is_switched_by_name_or_value(gates: str, *, flow: bool) -> None:
    """A bare name means true."""
    assert loaded(f"featureGates: [{gates}]").gates["flowControl"] is flow


def test_older_places_are_moved_with_a_warning() -> None:
    """The old group, `data`, `saturationDetector`, `parser` and retired gates still load."""
    found = load_text(
        "apiVersion: inference.networking.x-k8s.io/v1alpha1\nkind: EndpointPickerConfig\nfeatureGates: [dataLayer]\n"
        "data: {discovery: {pluginRef: d}}\nparser: {pluginRef: p}\n"
        "saturationDetector: {queueDepthThreshold: 5, metricsStalenessThreshold: 200ms}\n",
        "c.yaml",
    )
    assert found.data_layer.discovery is not None
    assert found.data_layer.discovery.plugin_ref == "d"
    assert found.config.request_handler is not None
    assert [parser.plugin_ref for parser in found.config.request_handler.parsers] == ["p"]
    assert found.config.flow_control is not None
    assert found.config.flow_control.saturation_detector == found.config.saturation_detector
    assert [warning.split(": ")[0] for warning in found.warnings] == [f"c.yaml:{line}" for line in (3, 1, 4, 6, 5)]


def test_the_newer_place_wins_over_the_older() -> None:
    """As in the reference."""
    found = loaded("parser: {pluginRef: old}\nrequestHandler: {parsers: [{pluginRef: new}]}\n")
    assert found.config.request_handler is not None
    assert [parser.plugin_ref for parser in found.config.request_handler.parsers] == ["new"]


def test_paths_count_from_the_files_directory(tmp_path: Path) -> None:
    """Wherever the picker was started."""
    file = tmp_path / "c.yaml"
    file.write_text(HEAD)
    assert load_file(file).directory == tmp_path


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """Missing, a directory, or not text."""
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    for path, why in ((tmp_path / "no.yaml", "No such file"), (tmp_path, "directory"), (tmp_path / "b.yaml", "UTF-8")):
        with pytest.raises(ConfigError, match=why) as caught:
            load_file(path)
        assert caught.value.file == str(path)


def test_options_choose_the_configuration(tmp_path: Path) -> None:
    """A file, a text, or the defaults."""
    file = tmp_path / "c.yaml"
    file.write_text(HEAD + "plugins: [{type: a}]")
    endpoints = "http://h:8000"
    assert load_for(ServeOptions(config_file=str(file), endpoints=endpoints)).config.plugins[0].type == "a"
    assert load_for(ServeOptions(config_text=HEAD, endpoints=endpoints)).config.plugins == []
    assert load_for(ServeOptions(endpoints=endpoints)).config == load_default().config


def test_something_must_find_the_endpoints() -> None:
    """Nothing, or two things, stop the start with what to write."""
    discovery = HEAD + "dataLayer: {discovery: {pluginRef: file-discovery}}"
    with pytest.raises(ConfigError, match=r"--endpoints http.*file-discovery"):
        load_for(ServeOptions())
    with pytest.raises(ConfigError, match="--pool-name alone would need Kubernetes"):
        load_for(ServeOptions(pool_name="p"))
    with pytest.raises(ConfigError, match="both say where"):
        load_for(ServeOptions(config_text=discovery, endpoints="http://h:1"))
    assert load_for(ServeOptions(config_text=discovery)).data_layer.discovery is not None
