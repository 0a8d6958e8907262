"""`metrics-data-source` and `core-metrics-extractor`: how a configuration describes the scraping, and what it amounts to.

The parameters have the reference's names. A page is read for all engines at once, so that of several extractors the
engines are put together; of several sources the first is taken.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal, Self

import structlog
from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from epp.api import Parameters, Services
from epp.config.duration import parse_duration
from epp.endpoints.pool import COUNTED, OBSERVED, SCRAPED
from epp.scrape.engines import BUILT_IN, Engine, MetricSpec, parse_spec, specs
from epp.scrape.options import ENGINE_LABEL, ScrapeOptions

log = structlog.get_logger(__name__)

_RESERVED = frozenset((*SCRAPED, *OBSERVED, *COUNTED))


def _spec(text: str) -> str:
    if text.strip():
        parse_spec(text)
    return text


def _seconds(value: object) -> object:
    """Read a duration as Go writes it (`1s`, `250ms`, `1m30s`); an empty one is 0."""
    if not isinstance(value, str):
        return value
    return parse_duration(value) if value.strip() else 0.0


def _required(text: str) -> str:
    parse_spec(text)
    return text


Spec = Annotated[str, AfterValidator(_spec)]
Seconds = Annotated[float, BeforeValidator(_seconds), Field(ge=0, json_schema_extra={"format": "duration"})]


class MetricsDataSourceParameters(Parameters):
    """Parameters of `metrics-data-source`. `port` overrides the endpoints' own; `interval` is a duration such as `1s`."""

    scheme: Literal["http", "https"] = Field(
        default="http", description="How metrics pages are fetched; an endpoint listed as `https://…` is always fetched by https."
    )
    path: str = Field(default="/metrics", description="Path of the metrics page.")
    port: int | None = Field(
        default=None,
        ge=1,
        le=65535,
        description="Port of the metrics page, 1 to 65535, where it is not the endpoint's own. "
        "An endpoint listed as `https://…` keeps its own.",
    )
    insecure_skip_verify: bool = Field(
        default=True, description="With https: accept any certificate, self-signed ones too. `false` verifies it."
    )
    ca_cert_path: str = Field(
        default="",
        description="CA bundle (PEM) to verify with when `insecureSkipVerify` is false; none: the system's. A relative path "
        "counts from the configuration file's directory, here and below.",
    )
    client_cert_path: str = Field(default="", description="Client certificate (PEM) to show; needs `clientKeyPath`.")
    client_key_path: str = Field(default="", description="Key (PEM) of the client certificate.")
    interval: Seconds = Field(
        default=0.0,
        description="Shortest time between two scrapes of an endpoint; a plain number is seconds. Only a longer one than "
        "`--refresh-metrics-interval` counts.",
    )

    @model_validator(mode="after")
    def _pair(self) -> Self:
        if bool(self.client_cert_path) != bool(self.client_key_path):
            msg = "clientCertPath and clientKeyPath are set together, or not at all"
            raise ValueError(msg)
        return self


class MetricsDataSource:
    """Says where the model servers' metrics pages are, and how often they are asked for."""

    def __init__(self, parameters: MetricsDataSourceParameters, services: Services) -> None:
        """Take the place; relative paths count from the configuration file's directory."""
        self._parameters = parameters
        self._directory = services.directory

    def scraping(self, options: ScrapeOptions) -> ScrapeOptions:
        """Give `options` with this place in it; the interval is never below the one already there."""
        given = self._parameters
        return replace(
            options,
            scheme=given.scheme,
            path=given.path,
            port=given.port,
            insecure_skip_verify=given.insecure_skip_verify,
            ca_path=self._file(given.ca_cert_path),
            cert_path=self._file(given.client_cert_path),
            key_path=self._file(given.client_key_path),
            pace=replace(options.pace, interval=max(options.pace.interval, given.interval)),
        )

    def _file(self, path: str) -> Path | None:
        return self._directory / path if path else None


class CustomMetric(Parameters):
    """A metric of the model server's own that scorers and filters read as attribute `attributeKey`."""

    attribute_key: str = Field(min_length=1, description="Name of the attribute; names of the picker's own columns are refused.")
    metric_spec: Annotated[str, AfterValidator(_required)] = Field(
        description="The metric, as `name` or `name{label=value}`; of several series the newest counts, in the metric's unit."
    )

    @model_validator(mode="after")
    def _free(self) -> Self:
        if self.attribute_key in _RESERVED:
            msg = f"attributeKey {self.attribute_key!r} is a column of the picker itself; choose another name"
            raise ValueError(msg)
        return self


class EngineConfig(Parameters):
    """One engine's metric names. It replaces a built-in engine of the same name as a whole; an empty spec reads nothing."""

    name: str = Field(min_length=1, description="The engine, as `defaultEngine` and the endpoints' engine label name it.")
    queued_requests_spec: Spec = Field(
        default="",
        description="Gauge of waiting requests, as `name` or `name{label=value}` (all specs are); series are added up.",
    )
    running_requests_spec: Spec = Field(default="", description="Gauge of running requests; series are added up.")
    kv_usage_spec: Spec = Field(default="", description="Gauge of the KV cache's used share, 0 to 1; the fullest series counts.")
    lora_spec: Spec = Field(
        default="",
        description="Metric whose labels `running_lora_adapters`, `waiting_lora_adapters` (comma lists) and `max_lora` tell of "
        "LoRA adapters; of several series the one with the highest value (a time) counts.",
    )
    cache_info_spec: Spec = Field(
        default="", description="Metric whose labels hold the KV cache's size; the two names below say which labels."
    )
    cache_block_size_label_name: str = Field(
        default="", description="Label with the tokens of a block of the KV cache; empty means `block_size`."
    )
    cache_num_blocks_label_name: str = Field(
        default="", description="Label with the number of blocks of the KV cache; empty means `num_gpu_blocks`."
    )
    cache_block_size_spec: Spec = Field(
        default="", description="Gauge of the tokens of a block, where `cacheInfoSpec` tells nothing."
    )
    cache_num_blocks_spec: Spec = Field(
        default="", description="Gauge of the number of blocks, where `cacheInfoSpec` tells nothing; series are added up."
    )
    custom_metrics: tuple[CustomMetric, ...] = Field(
        default=(), description="Further metrics of this engine; they win over those of the extractor with the same key."
    )

    def engine(self) -> Engine:
        """Give the engine these names describe."""
        return Engine(
            self.name,
            waiting=specs(self.queued_requests_spec),
            running=specs(self.running_requests_spec),
            kv_usage=specs(self.kv_usage_spec),
            lora=specs(self.lora_spec),
            cache_info=specs(self.cache_info_spec),
            block_size_label=self.cache_block_size_label_name or "block_size",
            num_blocks_label=self.cache_num_blocks_label_name or "num_gpu_blocks",
            block_size=specs(self.cache_block_size_spec),
            num_blocks=specs(self.cache_num_blocks_spec),
            custom=_custom(self.custom_metrics),
        )


def _custom(metrics: Iterable[CustomMetric]) -> dict[str, MetricSpec]:
    return {metric.attribute_key: parse_spec(metric.metric_spec) for metric in metrics}


class CoreMetricsParameters(Parameters):
    """Parameters of `core-metrics-extractor`. `custom_metrics` here are read from every engine's pages."""

    engine_label_key: str = Field(
        default=ENGINE_LABEL, description="Label of an endpoint that names its engine; empty means the default."
    )
    default_engine: str = Field(
        default="vllm",
        description="Engine an endpoint without that label is taken for, unless its page is another's: one of `engineConfigs`, "
        f"or built in ({', '.join(f'`{name}`' for name in BUILT_IN)}).",
    )
    engine_configs: tuple[EngineConfig, ...] = Field(
        default=(), description="Metric names of further engines, or of a built-in one in place of its own."
    )
    custom_metrics: tuple[CustomMetric, ...] = Field(default=(), description="Further metrics, read from every engine's pages.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [config.name for config in self.engine_configs]
        known = [*names, *BUILT_IN]
        if len(set(names)) < len(names):
            msg = f"engineConfigs names an engine twice: {', '.join(names)}"
            raise ValueError(msg)
        if (self.default_engine or "vllm") not in known:
            msg = f"defaultEngine {self.default_engine!r} is none of {', '.join(dict.fromkeys(known))}"
            raise ValueError(msg)
        for metrics in (self.custom_metrics, *(config.custom_metrics for config in self.engine_configs)):
            keys = [metric.attribute_key for metric in metrics]
            if len(set(keys)) < len(keys):
                msg = f"customMetrics names an attributeKey twice: {', '.join(keys)}"
                raise ValueError(msg)
        return self


class CoreMetricsExtractor:
    """Knows how each kind of model server names its load, KV cache and LoRA metrics."""

    def __init__(self, parameters: CoreMetricsParameters) -> None:
        """Take the engines."""
        self._parameters = parameters

    def scraping(self, options: ScrapeOptions) -> ScrapeOptions:
        """Give `options` with these engines in it."""
        given = self._parameters
        own = {config.name: config.engine() for config in given.engine_configs}
        engines = {**own, **{engine.name: engine for engine in options.engines if engine.name not in own}}
        shared = _custom(given.custom_metrics)
        return replace(
            options,
            engine_label=given.engine_label_key or ENGINE_LABEL,
            default_engine=given.default_engine or "vllm",
            engines=tuple(replace(engine, custom={**shared, **engine.custom}) for engine in engines.values()),
        )


def scrape_options(plugins: Iterable[object], options: ScrapeOptions) -> ScrapeOptions:
    """Put together what the configured plugins say of the scraping, on top of `options`.

    Raises ConfigError when a TLS file cannot be used. Without such plugins `options` stay: the reference's defaults.
    """
    sources = [plugin for plugin in plugins if isinstance(plugin, MetricsDataSource | CoreMetricsExtractor)]
    first = next((plugin for plugin in sources if isinstance(plugin, MetricsDataSource)), None)
    for plugin in sources:
        if isinstance(plugin, MetricsDataSource) and plugin is not first:
            log.warning("more than one metrics-data-source, only the first is used")
            continue
        options = plugin.scraping(options)
    options.tls()
    return options
