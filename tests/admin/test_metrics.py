from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from epp.admin.labels import OTHER
from epp.admin.metrics import PrometheusTelemetry
from epp.admin.page import MetricsPage
from epp.admin.pool import PoolGauges
from epp.admin.requests import MOST_LABEL_SETS
from epp.api import EndpointSpec, Outcome, Pool, Usage
from epp.telemetry import RequestLabels, Telemetry

LABELS = RequestLabels("food", "food-v1", "team-a", 3)
REQUEST = {"model_name": "food", "target_model_name": "food-v1", "fairness_id": "team-a", "priority": "3"}
P = "llm_d_epp_"

#: The reference's metrics that the picker can fill, with their labels.
REFERENCE = {
    "request_total": {*REQUEST},
    "request_error_total": {*REQUEST, "error_code"},
    "request_duration_seconds_bucket": {*REQUEST, "le"},
    "request_size_bytes_bucket": {*REQUEST, "le"},
    "response_size_bytes_bucket": {*REQUEST, "le"},
    "request_input_tokens_bucket": {*REQUEST, "le"},
    "request_output_tokens_bucket": {*REQUEST, "le"},
    "request_cached_tokens_bucket": {*REQUEST, "le"},
    "request_running": {*REQUEST},
    "request_ntpot_seconds_bucket": {*REQUEST, "le"},
    "request_ttft_seconds_bucket": {*REQUEST, "le", "streaming"},
    "request_streaming_tpot_seconds_bucket": {*REQUEST, "le"},
    "average_kv_cache_utilization": {"name"},
    "average_queue_size": {"name"},
    "average_running_requests": {"name"},
    "std_dev_kv_cache_utilization": {"name"},
    "std_dev_queue_size": {"name"},
    "std_dev_running_requests": {"name"},
    "ready_endpoints": {"name"},
    "per_endpoint_queue_size": {"name", "model_server_endpoint"},
    "scheduler_e2e_duration_seconds_bucket": {"le"},
    "scheduler_attempts_total": {"status", "target_model_name", "endpoint_name", "namespace", "port"},
    "plugin_duration_seconds_bucket": {"extension_point", "plugin_type", "plugin_name", "le"},
    "request_processing_duration_seconds_bucket": {"le"},
    "info": {"commit", "build_ref"},
    "datalayer_poll_errors_total": {"source_type"},
    "prefix_indexer_size": {"plugin_name", "plugin_type"},
    "prefix_indexer_hit_ratio_bucket": {"plugin_name", "plugin_type", "le"},
    "prefix_indexer_hit_bytes_bucket": {"plugin_name", "plugin_type", "le"},
    "extproc_streams_inflight": set(),
    "extproc_streams_total": {"code"},
    "extproc_stream_duration_seconds_bucket": {"le"},
    "inflight_requests": {"endpoint_name", "namespace", "producer_name"},
    "inflight_tokens": {"endpoint_name", "namespace", "producer_name"},
}
OURS = {
    "requests_rejected_total": {"code", "reason"},
    "requests_finished_total": {"cause"},
    "plugin_failures_total": {"extension_point", "plugin_type", "plugin_name"},
    "internal_faults_total": {"stage"},
    "scrape_failures_total": {"cause"},
    "scrape_duration_seconds_bucket": {"le"},
    "scrape_age_seconds": {"name", "model_server_endpoint"},
    "config_reload_total": {"what", "result"},
}


def report_everything(telemetry: Telemetry) -> None:
    """Make every report there is."""
    telemetry.request_received(LABELS, 2000)
    telemetry.request_started(LABELS)
    telemetry.request_ended(LABELS)
    outcome = Outcome(status=200, ttft=0.5, duration=2.5, response_bytes=700, usage=Usage(100, 21, 64))
    telemetry.request_finished(LABELS, outcome, streaming=True, prompt_tokens=90)
    telemetry.request_rejected(LABELS, 429, "rejected-saturated")
    telemetry.request_processed(0.003)
    telemetry.scheduled("food-v1", "10.0.0.2:8000", 0.0003)
    telemetry.plugin_ran("Scorer", "queue-scorer", "queue", 0.00001)
    telemetry.plugin_failed("Scorer", "queue-scorer", "queue")
    telemetry.internal_fault("parse")
    telemetry.scrape_failed("10.0.0.1:8000", "timeout")
    telemetry.scraped("10.0.0.2:8000", 0.004)
    telemetry.prefix_matched(75, 100)
    telemetry.prefix_size(1234)
    telemetry.stream_opened()
    telemetry.stream_opened()
    telemetry.stream_closed(0.2, "OK")
    telemetry.reload("config", ok=True)


async def samples(*sources: Any, accept: str = "") -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Give what a scraper reads: values by name and labels. A series that comes twice fails the test."""
    body, content_type = await MetricsPage(sources).render(accept)
    read = parse_openmetrics if "openmetrics" in content_type else parse
    found: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    for family in read(body.decode()):
        for sample in family.samples:
            key = sample.name, tuple(sorted(sample.labels.items()))
            assert key not in found
            found[key] = sample.value
    return found


def key(name: str, **labels: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Name a series."""
    return P + name, tuple(sorted(labels.items()))


def test_every_report_is_implemented() -> None:
    """No report of the base class is dropped."""
    reports = {name for name in vars(Telemetry) if not name.startswith("_")}
    assert reports <= set(vars(PrometheusTelemetry))


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text; version=1.0.0"])
async def test_the_references_names_and_labels(telemetry: PrometheusTelemetry, pool: Pool, time: Any, accept: str) -> None:
    """Every metric stands under the reference's name with exactly its labels, in both text forms."""
    report_everything(telemetry)
    pool.columns["waiting"][0], pool.columns["scraped_at"][0] = 3, time.now
    found = await samples(telemetry, PoolGauges(pool, "pool"), accept=accept)
    labels = {name.removeprefix(P): {label for label, _ in pairs} for name, pairs in found if name.startswith(P)}
    for name, expected in (REFERENCE | OURS).items():
        assert labels.get(name) == expected, name
    assert {"process_cpu_seconds_total", "python_info", "python_gc_collections_total"} <= {name for name, _ in found}


async def test_the_values_of_a_request(telemetry: PrometheusTelemetry) -> None:
    """Each report lands in its number, with the reference's formulas."""
    report_everything(telemetry)
    found = await samples(telemetry)
    assert found[key("request_total", **REQUEST)] == 1
    assert found[key("request_running", **REQUEST)] == 0
    assert found[key("request_error_total", error_code="ResourceExhausted", **REQUEST)] == 1
    assert found[key("requests_rejected_total", code="429", reason="rejected-saturated")] == 1
    assert found[key("request_size_bytes_bucket", le="2048.0", **REQUEST)] == 1
    assert found[key("request_size_bytes_bucket", le="1024.0", **REQUEST)] == 0
    assert found[key("request_duration_seconds_sum", **REQUEST)] == 2.5
    assert found[key("request_ttft_seconds_sum", streaming="true", **REQUEST)] == 0.5
    assert found[key("request_ntpot_seconds_sum", **REQUEST)] == pytest.approx(2.5 / 21)
    assert found[key("request_streaming_tpot_seconds_sum", **REQUEST)] == pytest.approx(0.1)
    assert found[key("request_input_tokens_sum", **REQUEST)] == 100
    assert found[key("request_output_tokens_sum", **REQUEST)] == 21
    assert found[key("request_cached_tokens_sum", **REQUEST)] == 64
    assert found[key("response_size_bytes_sum", **REQUEST)] == 700


async def test_the_values_of_the_rest(telemetry: PrometheusTelemetry) -> None:
    """The scheduler's, plugins', prefix's, streams' and scrapes' numbers are counted, endpoints named by the pool."""
    report_everything(telemetry)
    telemetry.scheduled("food-v1", "", 0.0003)
    telemetry.scheduled("food-v1", "[::1]:8000", 0.0003)
    telemetry.scheduled("food-v1", "10.9.9.9:1", 0.0003)
    found = await samples(telemetry)
    attempt = {"target_model_name": "food-v1", "status": "success", "namespace": "llm", "port": "8000"}
    assert found[key("scheduler_attempts_total", endpoint_name="vllm-1", **attempt)] == 1
    assert found[key("scheduler_attempts_total", endpoint_name="::1", **{**attempt, "namespace": "default"})] == 1
    gone = {**attempt, "namespace": "", "port": "1"}
    assert found[key("scheduler_attempts_total", endpoint_name="10.9.9.9", **gone)] == 1
    nobody = {**attempt, "status": "failure", "namespace": "", "port": ""}
    assert found[key("scheduler_attempts_total", endpoint_name="", **nobody)] == 1
    assert found[key("scheduler_e2e_duration_seconds_count")] == 4
    plugin = {"extension_point": "Scorer", "plugin_type": "queue-scorer", "plugin_name": "queue"}
    assert found[key("plugin_duration_seconds_bucket", le="0.0001", **plugin)] == 1
    assert found[key("plugin_failures_total", **plugin)] == 1
    assert found[key("internal_faults_total", stage="parse")] == 1
    producer = {"plugin_name": "approx-prefix-cache-producer", "plugin_type": "approx-prefix-cache-producer"}
    assert found[key("prefix_indexer_hit_ratio_sum", **producer)] == 0.75
    assert found[key("prefix_indexer_hit_bytes_sum", **producer)] == 300
    assert found[key("prefix_indexer_size", **producer)] == 1234
    assert found[key("extproc_streams_inflight")] == 1
    assert found[key("extproc_streams_total", code="OK")] == 1
    assert found[key("datalayer_poll_errors_total", source_type="metrics-data-source")] == 1
    assert found[key("scrape_failures_total", cause="timeout")] == 1
    assert found[key("config_reload_total", what="config", result="success")] == 1
    assert found[key("info", commit="abc", build_ref="v1")] == 1


async def test_an_address_that_passes_on_is_renamed(telemetry: PrometheusTelemetry, pool: Pool) -> None:
    """When another endpoint takes over an address, attempts are counted under the new name from then on."""
    telemetry.scheduled("m", "10.0.0.1:8000", 0.001)
    pool.update([EndpointSpec("10.0.0.1", 8000, name="vllm-9", namespace="llm")])
    telemetry.scheduled("m", "10.0.0.1:8000", 0.001)
    labels = {"status": "success", "target_model_name": "m", "namespace": "llm", "port": "8000"}
    found = await samples(telemetry)
    assert found[key("scheduler_attempts_total", endpoint_name="vllm-0", **labels)] == 1
    assert found[key("scheduler_attempts_total", endpoint_name="vllm-9", **labels)] == 1


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        (Outcome(status=503), "ModelServerError"),
        (Outcome(status=404), "ModelServerError"),
        (Outcome(cause="error"), "ModelServerError"),
        (Outcome(cause="evicted"), "ResourceExhausted"),
        (Outcome(status=200), None),
        (Outcome(status=200, cause="client-disconnect"), None),
    ],
)
async def test_which_ends_are_errors(telemetry: PrometheusTelemetry, outcome: Outcome, code: str | None) -> None:
    """A model server's error and a broken answer are errors; a client that leaves is not."""
    telemetry.request_finished(LABELS, outcome, streaming=False, prompt_tokens=0)
    found = await samples(telemetry)
    codes = [dict(pairs)["error_code"] for name, pairs in found if name == P + "request_error_total"]
    assert codes == ([code] if code else [])


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, "BadRequest"), (413, "BadRequest"), (422, "BadRequest"), (503, "ServiceUnavailable"), (599, "Internal")],
)
async def test_rejections_have_the_references_codes(telemetry: PrometheusTelemetry, status: int, code: str) -> None:
    """An HTTP status is named as the reference names the error."""
    telemetry.request_rejected(LABELS, status, None)
    found = await samples(telemetry)
    assert found[key("request_error_total", error_code=code, **REQUEST)] == 1


async def test_cut_answers_and_strange_usage_do_not_spoil_the_histograms(telemetry: PrometheusTelemetry) -> None:
    """Aborted answers are not timed; impossible numbers from a model server are passed over and never raise."""
    cut = Outcome(cause="client-disconnect", ttft=0.1, duration=0.2)
    telemetry.request_finished(LABELS, cut, streaming=True, prompt_tokens=5)
    strange = Outcome(status=200, ttft=-1.0, duration=float("nan"), usage=Usage(-5, 10**400, -1))
    telemetry.request_finished(LABELS, strange, streaming=True, prompt_tokens=0)
    early = Outcome(status=200, ttft=2.0, duration=1.0, usage=Usage(None, 10, None))
    telemetry.request_finished(LABELS, early, streaming=True, prompt_tokens=7)
    found = await samples(telemetry)
    assert found[key("request_duration_seconds_count", **REQUEST)] == 1
    assert found[key("request_output_tokens_count", **REQUEST)] == 1
    assert found[key("request_input_tokens_sum", **REQUEST)] == 7
    assert key("request_streaming_tpot_seconds_count", **REQUEST) not in found
    assert key("request_cached_tokens_count", **REQUEST) not in found
    assert all(np.isfinite(value) for (name, _), value in found.items() if name.startswith(P))


async def test_invented_model_names_become_other(telemetry: PrometheusTelemetry) -> None:
    """After 1,000 model names further ones share `other`; what was let in, and what is configured, keeps its name."""
    telemetry.pin_model("configured")
    for number in range(1200):
        telemetry.request_received(RequestLabels(f"m{number}", "", "f", 0), 10)
    telemetry.request_received(RequestLabels("m7", "", "f", 0), 10)
    telemetry.request_received(RequestLabels("configured", "", "f", 0), 10)
    found = await samples(telemetry)
    totals = {dict(pairs)["model_name"]: value for (name, pairs), value in found.items() if name == P + "request_total"}
    assert len(totals) == 1002
    assert (totals[OTHER], totals["m7"], totals["configured"]) == (200, 2, 1)


async def test_label_sets_are_bounded_too(telemetry: PrometheusTelemetry) -> None:
    """Many models times many fairness ids do not multiply without end, and what goes up comes down."""
    sets = [RequestLabels(f"m{a}", f"m{a}", f"f{b}", 0) for a in range(100) for b in range(100)]
    for labels in sets:
        telemetry.request_started(labels)
    for labels in sets:
        telemetry.request_ended(labels)
    readings = {reading.family.name: reading for reading in telemetry.read()}
    running = readings["request_running"].samples
    assert len(running) == MOST_LABEL_SETS + 1
    assert {value for _, value in running} == {0}


async def test_labels_from_clients_cannot_break_the_page(telemetry: PrometheusTelemetry) -> None:
    """Quotes, line breaks, lone surrogates and long names give a page that still parses."""
    for name in ('a"b\\c', "line\nbreak", "\udcff", "x" * 100_000, "日本語"):
        telemetry.request_received(RequestLabels(name, name, name, 0), 10)
        telemetry.request_rejected(RequestLabels(name, name, name, 0), 429, name)
    for accept in ("", "application/openmetrics-text; version=1.0.0"):
        found = await samples(telemetry, accept=accept)
        assert len([name for name, _ in found if name == P + "request_total"]) == 5


async def test_gauges_can_be_added(telemetry: PrometheusTelemetry) -> None:
    """Another part's number is asked for at each scrape."""
    page = MetricsPage([telemetry])
    numbers = iter([5, 6])
    page.gauge("exchanges_open", "Routed requests not finished.", lambda: next(numbers))
    assert b"llm_d_epp_exchanges_open 5.0" in (await page.render(""))[0]
    assert b"llm_d_epp_exchanges_open 6.0" in (await page.render(""))[0]
