"""What an assembly refuses, and what it warns of: each at its line, each once."""

from __future__ import annotations

import pytest

from .conftest import Build, errors

#: A plugin's type, and what a profile refers to, in line 7.
PROFILE = "plugins: [{{type: {}}}]\nschedulingProfiles:\n- name: a\n  plugins:\n  - {{pluginRef: {}}}"


@pytest.mark.parametrize(
    ("text", "line", "key", "message"),
    [
        ("plugins:\n- type: queue-scorrer", 4, "plugins[0].type", "did you mean 'queue-scorer'?"),
        ("plugins:\n- type: token-producer", 4, "plugins[0].type", "this build does not have it"),
        ("plugins:\n- type: ./no.py:Class", 4, "plugins[0].type", "there is no file"),
        (
            "plugins:\n- type: tier-scorer\n  parameters:\n    treshold: 1", 6, "plugins[0].parameters.treshold",
            "unknown field; did you mean 'threshold'?",
        ),
        (
            "plugins:\n- type: tier-scorer\n  parameters:\n    threshold: -1", 6, "plugins[0].parameters.threshold",
            "greater than or equal to 0, not -1",
        ),
        ("plugins:\n- type: queue-scorer\n  parameters: {a: 1}", 5, "plugins[0].parameters", "takes no parameters"),
        (
            PROFILE.format("queue-scorer", "quue-scorer"),
            7, "schedulingProfiles[0].plugins[0].pluginRef", "no plugin is called 'quue-scorer'; did you mean 'queue-scorer'?",
        ),
        (
            PROFILE.format("max-score-picker}, {type: random-picker", "random-picker}\n  - {pluginRef: max-score-picker"),
            8, "schedulingProfiles[0].plugins[1]", "two pickers, 'random-picker' and 'max-score-picker'",
        ),
        ("plugins:\n- type: max-score-picker\n- type: random-picker", 5, "plugins[1]", "two pickers"),
        (
            "plugins:\n- type: single-profile-handler\n- type: all-profiles-handler", 5, "plugins[1]",
            "a profile handler already, 'single-profile-handler'",
        ),
        ("schedulingProfiles:\n- name: a\n- name: b", 3, "schedulingProfiles", "2 profiles need a profile handler"),
        (
            "plugins:\n- type: single-profile-handler\nschedulingProfiles:\n- name: a\n- name: b", 4, "plugins[0]",
            "runs one profile, but there are 2",
        ),
        (
            "plugins: [{type: random-picker}]\nrequestHandler:\n  parsers:\n  - pluginRef: random-picker",
            6, "requestHandler.parsers[0].pluginRef", "'random-picker' is a picker, but a parser is needed here",
        ),
        (
            "requestHandler:\n  parsers:\n  - pluginRef: opnai-parser", 5, "requestHandler.parsers[0].pluginRef",
            "no plugin is called",
        ),
        ("parser:\n  pluginRef: nobody", 4, "parser.pluginRef", "no plugin is called 'nobody'"),
        (
            "plugins: [{type: queue-scorer}]\ndataLayer:\n  discovery:\n    pluginRef: queue-scorer",
            6, "dataLayer.discovery.pluginRef", "a discovery is needed here",
        ),
        ("data:\n  discovery:\n    pluginRef: nobody", 5, "data.discovery.pluginRef", "no plugin is called"),
        (
            "plugins: [{type: queue-scorer}]\ndataLayer:\n  sources:\n  - pluginRef: queue-scorer",
            6, "dataLayer.sources[0].pluginRef", "a data source is needed here",
        ),
        (
            "plugins: [{name: m, type: metrics-data-source}]\ndata: {sources: [{pluginRef: m, extractors: [{pluginRef: x}]}]}",
            4, "data.sources[0].extractors[0].pluginRef", "no plugin is called",
        ),
        (
            "flowControl:\n  saturationDetector:\n    pluginRef: det", 5, "flowControl.saturationDetector.pluginRef",
            "no plugin is called 'det'",
        ),
        (
            "flowControl:\n  priorityBands:\n  - fairnessPolicyRef: round-robbin-fairness-policy",
            5, "flowControl.priorityBands[0].fairnessPolicyRef", "did you mean 'round-robin-fairness-policy'?",
        ),
        (
            PROFILE.format("utilization-detector", "utilization-detector"),
            7, "schedulingProfiles[0].plugins[0].pluginRef", "flow control, which this build does not have yet",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_at_its_line(build: Build, text: str, line: int, key: str, message: str) -> None:
    """Types, parameters, references and kinds."""
    found = errors(build, text)
    assert [(one[0], one[1]) for one in found] == [(line, key)]
    assert message in found[0][2]


def test_one_mistake_is_told_once(build: Build) -> None:
    """References to a plugin that could not be made are no mistakes of their own."""
    found = errors(
        build,
        """
plugins:
- {name: p, type: nonsense}
schedulingProfiles:
- name: a
  plugins: [{pluginRef: p}]
- name: b
  plugins: [{pluginRef: p}]
requestHandler: {parsers: [{pluginRef: p}]}
dataLayer: {discovery: {pluginRef: p}}
""",
    )
    assert [key for _, key, _ in found] == ["plugins[0].type"]


def test_several_mistakes_are_told_together(build: Build) -> None:
    """Types, parameters and references in one go."""
    found = errors(
        build,
        """
plugins:
- {type: nonsense}
- {type: tier-scorer, parameters: {threshold: x}}
schedulingProfiles:
- name: a
  plugins: [{pluginRef: nobody}]
""",
    )
    assert [key for _, key, _ in found] == [
        "plugins[0].type", "plugins[1].parameters.threshold", "schedulingProfiles[0].plugins[0].pluginRef",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (
            PROFILE.format("random-picker", "random-picker, weight: 2"),
            7, "no scorer; its weight has no effect",
        ),
        (
            PROFILE.format("queue-scorer", "queue-scorer, onError: skip"),
            7, "no filter; onError has no effect",
        ),
        (
            PROFILE.format("warmth-producer", "warmth-producer"),
            7, "is a producer; in a profile it has no effect",
        ),
        ("plugins:\n- type: queue-scorer\nschedulingProfiles: [{name: a}]", 4, "is listed, but nothing refers to it"),
        ("plugins:\n- type: file-discovery", 4, "nothing refers to it"),
        ("featureGates: [flowControl]", 3, "does not queue requests yet"),
        ("flowControl: {maxRequests: 5}", 3, "does not queue requests yet"),
        ("plugins:\n- type: utilization-detector", 4, "belongs to flow control"),
        ("dataLayer: {peerDiscovery: {pluginRef: a}}", 3, "replicas share no state yet"),
        ("dataLayer: {crossReplicaSyncerPluginRef: a}", 3, "replicas share no state yet"),
        ("dataLayer: {crossReplicaSyncInterval: 1s}", 3, "replicas share no state yet"),
        ("dataLayer: {injectDefaults: false}", 3, "metrics are not collected"),
        (
            "requestHandler:\n  parsers:\n  - pluginRef: passthrough-parser\n  - pluginRef: openai-parser", 6,
            "never reached: a parser before it takes every path",
        ),
        (
            "plugins: [{name: o, type: openai-parser}]\nrequestHandler:\n  parsers: [{pluginRef: openai-parser}, {pluginRef: o}]",
            5, "a second openai-parser has no effect",
        ),
    ],
)  # fmt: skip
def test_what_has_no_effect_is_warned_of(build: Build, text: str, line: int, message: str) -> None:
    """Never in silence, each with its line."""
    (warning,) = build(text).warnings
    assert warning.startswith(f"c.yaml:{line}: ")
    assert message in warning
