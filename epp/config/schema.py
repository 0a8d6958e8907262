"""The shape of an `EndpointPickerConfig`: which fields there are, of which type, with which default and meaning.

Field names, defaults and units are the reference's; `onError` is ours. What fields refer to (plugins, types) is checked
elsewhere. The descriptions are the reference documentation: `epp.config.reference` prints them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.alias_generators import to_camel

from epp.config.duration import parse_duration, parse_quantity

API_VERSION = "llm-d.ai/v1alpha1"
OLD_API_VERSION = "inference.networking.x-k8s.io/v1alpha1"
KIND = "EndpointPickerConfig"

#: Feature gates and their defaults, as the reference's.
FEATURE_GATES = {"flowControl": False, "haPopulateNonLeaderDatastore": True}
#: Gates of older releases, for what is always on since.
RETIRED_GATES = frozenset({"dataLayer", "prepareDataPlugins"})


def _duration(value: Any) -> Any:
    if isinstance(value, str):
        seconds = parse_duration(value)
        if seconds < 0:
            message = f"{value!r} is negative"
            raise ValueError(message)
        return seconds
    message = f"{value!r} is not a duration: write text with a unit, such as 30s, 500ms or 1m30s"
    raise ValueError(message)


def _quantity(value: Any) -> Any:
    if not isinstance(value, (str, int, float)):
        message = "is not a quantity: write a number, such as 500, 1k or 1Gi"
        raise ValueError(message)  # noqa: TRY004 - pydantic turns a ValueError into a message
    number = parse_quantity(value)
    if number < 0:
        message = f"{value!r} is negative"
        raise ValueError(message)
    return number


Duration = Annotated[float, BeforeValidator(_duration)]  # written as text, held as seconds
Quantity = Annotated[int, BeforeValidator(_quantity)]
Name = Annotated[str, Field(min_length=1)]


class Section(BaseModel):
    """A mapping in the configuration: camelCase keys, unknown ones refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=to_camel)


class PluginSpec(Section):
    """A plugin that is to be created."""

    name: str = Field(default="", description="What other fields refer to it by. Defaults to the type.")
    type: Name = Field(description="A registered type, `package.module:Class`, or `./file.py:Class` beside this file.")
    parameters: dict[str, Any] = Field(default={}, description="Parameters of the plugin, as its type defines them.")

    @property
    def reference(self) -> str:
        """The name others refer to it by."""
        return self.name or self.type


class ProfilePlugin(Section):
    """A plugin's place in a scheduling profile."""

    plugin_ref: Name = Field(description="Name of an entry of `plugins`.")
    weight: float | None = Field(default=None, allow_inf_nan=False, description="Weight of a scorer. Defaults to 1.")
    on_error: Literal["skip", "reject"] | None = Field(
        default=None, description="When a filter raises: `skip` it (the default), or `reject` the request. Not in the reference."
    )


class SchedulingProfile(Section):
    """Filters, scorers and a picker that choose endpoints together."""

    name: Name = Field(description="Name of the profile.")
    plugins: list[ProfilePlugin] = Field(default=[], description="Its plugins; filters and scorers run in this order.")


class PluginReference(Section):
    """A reference to a plugin."""

    plugin_ref: Name = Field(description="Name of an entry of `plugins`.")


class DataSource(Section):
    """Where signals of the endpoints come from."""

    plugin_ref: Name = Field(description="Name of an entry of `plugins` that is a data source.")
    extractors: list[PluginReference] = Field(default=[], description="The extractors that read what the source fetches.")


class DataLayer(Section):
    """How the picker learns of endpoints and of their state."""

    inject_defaults: bool = Field(
        default=True, description="Whether to add `metrics-data-source` with `core-metrics-extractor` when it is not listed."
    )
    sources: list[DataSource] = Field(default=[], description="Sources of signals.")
    discovery: PluginReference | None = Field(default=None, description="The plugin that finds the endpoints, without a cluster.")
    peer_discovery: PluginReference | None = Field(
        default=None, description="Accepted without effect: replicas share no state yet."
    )
    cross_replica_syncer_plugin_ref: str = Field(default="", description="Accepted without effect: replicas share no state yet.")
    cross_replica_sync_interval: Duration | None = Field(
        default=None, description="Accepted without effect: replicas share no state yet."
    )


class SaturationDetector(Section):
    """Which plugin tells how full the pool is."""

    plugin_ref: str = Field(default="", description="Name of a saturation detector. Defaults to `utilization-detector`.")
    queue_depth_threshold: int | None = Field(default=None, description="Of an older release; a parameter of the plugin since.")
    kv_cache_util_threshold: float | None = Field(
        default=None, description="Of an older release; a parameter of the plugin since."
    )
    metrics_staleness_threshold: Duration | None = Field(
        default=None, description="Of an older release; a parameter of the plugin since."
    )


class PriorityBand(Section):
    """Limits and policies of requests of one priority."""

    priority: int = Field(default=0, description="The priority; higher goes first, below 0 may be shed.")
    max_bytes: Quantity | None = Field(default=None, description="Bytes that may wait in this band. 0 or absent: 1G.")
    max_requests: Quantity | None = Field(default=None, description="Requests that may wait in this band. 0 or absent: 5000.")
    fairness_policy_ref: str = Field(default="", description="Which flow goes next. Defaults to `global-strict-fairness-policy`.")
    ordering_policy_ref: str = Field(
        default="", description="Which request of a flow goes next. Defaults to `fcfs-ordering-policy`."
    )


class FlowControl(Section):
    """Queues before the scheduler, behind the feature gate `flowControl`. Checked, but without effect in this build."""

    max_bytes: Quantity | None = Field(
        default=None, description="Bytes that may wait in all bands together. 0 or absent: no limit."
    )
    max_requests: Quantity | None = Field(default=None, description="Requests that may wait in all bands. 0 or absent: no limit.")
    default_request_ttl: Duration | None = Field(
        default=None,
        alias="defaultRequestTTL",
        description="How long a request may wait while there are endpoints. Absent: 60s; 0s: no end.",
    )
    no_endpoint_request_ttl: Duration | None = Field(
        default=None, alias="noEndpointRequestTTL", description="The same while there are none. Absent: as defaultRequestTTL."
    )
    default_priority_band: PriorityBand | None = Field(default=None, description="For priorities that are not listed.")
    default_negative_priority_band: PriorityBand | None = Field(
        default=None, description="For priorities below 0 that are not listed."
    )
    priority_bands: list[PriorityBand] = Field(default=[], description="The bands with settings of their own.")
    usage_limit_policy_plugin_ref: str = Field(default="", description="Name of a usage limit policy.")
    saturation_detector: SaturationDetector | None = Field(default=None, description="Which plugin tells how full the pool is.")
    enable_eviction: bool = Field(default=False, description="Whether running requests may be cancelled for higher priorities.")


class RequestHandler(Section):
    """How requests are read."""

    parsers: list[PluginReference] = Field(
        default=[],
        description="The parsers, by name or by type; the longest path wins, one without paths is the fallback.",
    )


class EndpointPickerConfig(Section):
    """The configuration file of the picker."""

    api_version: Literal["llm-d.ai/v1alpha1", "inference.networking.x-k8s.io/v1alpha1"] = Field(
        description=f"`{API_VERSION}`, or the older `{OLD_API_VERSION}`."
    )
    kind: Literal["EndpointPickerConfig"] = Field(description=f"`{KIND}`.")
    feature_gates: list[str] = Field(default=[], description="Gates to switch: `name`, `name=true` or `name=false`.")
    plugins: list[PluginSpec] = Field(default=[], description="The plugins that are created.")
    scheduling_profiles: list[SchedulingProfile] = Field(
        default=[], description="The profiles. None: one named `default`, of all filters, scorers and pickers in `plugins`."
    )
    data_layer: DataLayer | None = Field(default=None, description="Sources of signals, and discovery of endpoints.")
    data: DataLayer | None = Field(default=None, description="Older name of `dataLayer`.")
    flow_control: FlowControl | None = Field(default=None, description="Queues before the scheduler.")
    request_handler: RequestHandler | None = Field(default=None, description="How requests are read.")
    saturation_detector: SaturationDetector | None = Field(
        default=None, description="Older place of `flowControl.saturationDetector`."
    )
    parser: PluginReference | None = Field(default=None, description="Older place of `requestHandler.parsers`, for one parser.")
