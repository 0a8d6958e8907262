"""What a configuration says of the scraping, and the options it amounts to."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from epp.api import Services
from epp.errors import ConfigError
from epp.scrape.engines import MetricSpec, specs
from epp.scrape.options import ScrapeOptions
from epp.scrape.pace import Pace
from epp.scrape.sources import (
    CoreMetricsExtractor,
    CoreMetricsParameters,
    MetricsDataSource,
    MetricsDataSourceParameters,
    scrape_options,
)


def source(directory: Path = Path(), **parameters: Any) -> MetricsDataSource:
    """Make the source as a configuration would."""
    services = Services("metrics-data-source", lambda: 0.0, random.Random(1), directory)
    return MetricsDataSource(MetricsDataSourceParameters.model_validate(parameters), services)


def extractor(**parameters: Any) -> CoreMetricsExtractor:
    """Make the extractor as a configuration would."""
    return CoreMetricsExtractor(CoreMetricsParameters.model_validate(parameters))


def test_without_plugins_the_reference_s_defaults_hold() -> None:
    """No source and no extractor configured: the options stay as they were given."""
    assert scrape_options([object()], ScrapeOptions()) == ScrapeOptions()
    assert scrape_options([source(), extractor()], ScrapeOptions()) == ScrapeOptions()


def test_the_source_says_where_the_pages_are() -> None:
    """Every parameter in the reference's spelling arrives in the options."""
    options = source(scheme="https", path="/m?x=1", port=9000, insecureSkipVerify=False, interval="1m1.5s").scraping(
        ScrapeOptions()
    )
    assert (options.scheme, options.path, options.port, options.insecure_skip_verify) == ("https", "/m?x=1", 9000, False)
    assert options.pace.interval == 61.5


@pytest.mark.parametrize(("interval", "expected"), [("", 0.05), ("10ms", 0.05), ("100ms", 0.1), ("0s", 0.05), (2, 2.0)])
def test_the_interval_never_falls_below_the_flag_s(interval: object, expected: float) -> None:
    """The source may be slower than `--refresh-metrics-interval`, not faster."""
    assert source(interval=interval).scraping(ScrapeOptions(pace=Pace(interval=0.05))).pace.interval == pytest.approx(expected)


@pytest.mark.parametrize(
    "parameters",
    [
        {"scheme": "ftp"},
        {"port": 0},
        {"port": 65536},
        {"interval": "soon"},
        {"interval": "5"},
        {"interval": "-1s"},
        {"clientCertPath": "c.pem"},
        {"verify": True},
    ],
)
def test_nonsense_in_the_source_is_refused(parameters: dict[str, Any]) -> None:
    """What cannot be meant stops the start."""
    with pytest.raises(ValidationError):
        source(**parameters)


def test_the_extractor_teaches_engines() -> None:
    """Own names by config: an engine with selectors and custom metrics comes before the built-in ones."""
    options = extractor(
        defaultEngine="own",
        engineLabelKey="kind",
        engineConfigs=[
            {
                "name": "own",
                "queuedRequestsSpec": "q{state=waiting}",
                "runningRequestsSpec": "r",
                "kvUsageSpec": "kv",
                "loraSpec": "lora",
                "cacheInfoSpec": "info",
                "cacheBlockSizeLabelName": "size",
                "cacheNumBlocksLabelName": "count",
                "cacheBlockSizeSpec": "bs",
                "cacheNumBlocksSpec": "nb",
                "customMetrics": [{"attributeKey": "depth", "metricSpec": "d{tier=gold}"}],
            }
        ],
        customMetrics=[{"attributeKey": "power", "metricSpec": "watts"}],
    ).scraping(ScrapeOptions())
    assert (options.default_engine, options.engine_label) == ("own", "kind")
    own, vllm = options.engines[:2]
    assert own.waiting == (MetricSpec("q", {"state": "waiting"}),)
    assert (own.running, own.kv_usage, own.lora, own.cache_info) == (specs("r"), specs("kv"), specs("lora"), specs("info"))
    assert (own.block_size_label, own.num_blocks_label) == ("size", "count")
    assert (own.block_size, own.num_blocks) == (specs("bs"), specs("nb"))
    assert own.custom == {"depth": MetricSpec("d", {"tier": "gold"}), "power": MetricSpec("watts")}
    assert (vllm.name, vllm.custom) == ("vllm", {"power": MetricSpec("watts")})


def test_an_engine_of_a_built_in_name_replaces_it() -> None:
    """Replaced as a whole, as in the reference: an empty spec reads nothing."""
    options = extractor(engineConfigs=[{"name": "vllm", "queuedRequestsSpec": "q", "loraSpec": ""}]).scraping(ScrapeOptions())
    found = [engine for engine in options.engines if engine.name == "vllm"]
    assert len(found) == 1
    assert (found[0].waiting, found[0].running, found[0].lora) == (specs("q"), (), ())


@pytest.mark.parametrize(
    "parameters",
    [
        {"defaultEngine": "nowhere"},
        {"engineConfigs": [{"name": "a"}, {"name": "a"}]},
        {"engineConfigs": [{"name": ""}]},
        {"engineConfigs": [{"name": "a", "kvUsageSpec": "no spec"}]},
        {"customMetrics": [{"attributeKey": "a", "metricSpec": ""}]},
        {"customMetrics": [{"attributeKey": "", "metricSpec": "m"}]},
        {"customMetrics": [{"attributeKey": "a", "metricSpec": "m"}, {"attributeKey": "a", "metricSpec": "n"}]},
        {"customMetrics": [{"attributeKey": "inflight_requests", "metricSpec": "m"}]},
    ],
)
def test_nonsense_in_the_extractor_is_refused(parameters: dict[str, object]) -> None:
    """Unknown engines, doubled names, bad specs, and attribute keys that would overwrite the picker's own columns."""
    with pytest.raises(ValidationError):
        extractor(**parameters)


def test_of_two_sources_the_first_is_used() -> None:
    """A second source changes nothing."""
    assert scrape_options([source(path="/a"), source(path="/b")], ScrapeOptions()).path == "/a"


def test_unusable_tls_files_are_named(tmp_path: Path) -> None:
    """A CA bundle or certificate that cannot be read stops the start and is named; paths count from the config file."""
    (tmp_path / "bad.pem").write_text("nothing")
    with pytest.raises(ConfigError, match=r"bad\.pem: caCertPath"):
        scrape_options([source(tmp_path, insecureSkipVerify=False, caCertPath="bad.pem")], ScrapeOptions())
    with pytest.raises(ConfigError, match=r"gone\.pem: clientCertPath"):
        scrape_options([source(tmp_path, clientCertPath="gone.pem", clientKeyPath="gone.key")], ScrapeOptions())
