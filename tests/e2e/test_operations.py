"""What an operator meets: health, readiness, metrics, configurations that are right and wrong."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.e2e.stack import stack
from tests.e2e.wire import WAIT, Channel, chat, picker, refusal

SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3
READINESS = ("", "readiness", "envoy.service.ext_proc.v3.ExternalProcessor", "inference-extension")
HEAD = "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\n"
FILE = f"""{HEAD}
plugins:
  - type: file-discovery
    parameters: {{path: endpoints.yaml, watchFile: true}}
dataLayer:
  discovery: {{pluginRef: file-discovery}}
"""


async def epp(*arguments: str) -> tuple[int, str]:
    """Run an `epp` command to its end; give its exit code and all it said."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "epp", *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    async with asyncio.timeout(60):
        output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


async def state(call: Any) -> int:
    """Read the next state of a watched service."""
    return int((await asyncio.wait_for(call.read(), WAIT)).status)


async def test_not_ready_until_the_endpoints_are_known(tmp_path: Path) -> None:
    """Before discovery has spoken nothing is ready and requests get 503; then every way of asking says so at once."""
    async with (
        picker(config=FILE, directory=tmp_path) as alone,
        Channel(alone.ports["grpc"]) as main,
        Channel(alone.ports["health"]) as health,
    ):
        watched = [port.watch(name) for port in (main, health) for name in READINESS]
        assert {await state(call) for call in watched} == {NOT_SERVING}
        for port in (main, health):
            assert {await port.check(name) for name in READINESS} == {NOT_SERVING}
            assert await port.check("liveness") == SERVING
        assert await alone.page("/readyz") == (503, "the endpoints are not known yet\n")
        assert await alone.page("/healthz") == (200, "ok\n")
        exchange = main.exchange()
        await exchange.headers(end=True)
        assert refusal(await exchange.reply())[:2] == (503, "rejected-no-endpoints")

        (tmp_path / "endpoints.yaml").write_text("endpoints: [{address: 127.0.0.1, port: 9}]\n")
        assert {await state(call) for call in watched} == {SERVING}
        for port in (main, health):
            assert {await port.check(name) for name in (*READINESS, "liveness")} == {SERVING}
        assert await alone.page("/readyz") == (200, "ok\n")
        exchange = main.exchange()
        assert await exchange.routed(chat()) == "127.0.0.1:9"
        await exchange.finish()


async def test_unknown_health_names() -> None:
    """Check says NOT_FOUND and which names there are; Watch says SERVICE_UNKNOWN and stays, as the protocol wants."""
    async with picker("--endpoints=127.0.0.1:9") as alone:
        for port in (alone.ports["grpc"], alone.ports["health"]):
            async with Channel(port) as channel:
                with pytest.raises(grpc.aio.AioRpcError) as error:
                    await channel.check("nothing.of.the.Kind")
                assert error.value.code() is grpc.StatusCode.NOT_FOUND
                assert "readiness" in str(error.value.details())
                call = channel.watch("nothing.of.the.Kind")
                assert await state(call) == SERVICE_UNKNOWN
                assert not call.done()
        assert await alone.page("/readyz") == (200, "ok\n")
        assert (await alone.page("/"))[0] == 200
        assert (await alone.page("/nothing"))[0] == 404


REQUEST = {"model_name", "target_model_name", "fairness_id", "priority"}
#: The reference's names that have a meaning here, with their labels.
REFERENCE = {
    "request_total": REQUEST,
    "request_error_total": REQUEST | {"error_code"},
    "request_duration_seconds_count": REQUEST,
    "request_size_bytes_count": REQUEST,
    "response_size_bytes_count": REQUEST,
    "request_input_tokens_count": REQUEST,
    "request_output_tokens_count": REQUEST,
    "request_cached_tokens_count": REQUEST,
    "request_running": REQUEST,
    "request_ntpot_seconds_count": REQUEST,
    "request_ttft_seconds_count": REQUEST | {"streaming"},
    "request_streaming_tpot_seconds_count": REQUEST,
    "average_kv_cache_utilization": {"name"},
    "average_queue_size": {"name"},
    "average_running_requests": {"name"},
    "std_dev_kv_cache_utilization": {"name"},
    "std_dev_queue_size": {"name"},
    "std_dev_running_requests": {"name"},
    "ready_endpoints": {"name"},
    "per_endpoint_queue_size": {"name", "model_server_endpoint"},
    "scheduler_e2e_duration_seconds_count": set(),
    "scheduler_attempts_total": {"status", "target_model_name", "endpoint_name", "namespace", "port"},
    "plugin_duration_seconds_count": {"extension_point", "plugin_type", "plugin_name"},
    "request_processing_duration_seconds_count": set(),
    "info": {"commit", "build_ref"},
    "prefix_indexer_size": {"plugin_name", "plugin_type"},
    "prefix_indexer_hit_ratio_count": {"plugin_name", "plugin_type"},
    "prefix_indexer_hit_bytes_count": {"plugin_name", "plugin_type"},
    "extproc_streams_inflight": set(),
    "extproc_stream_duration_seconds_count": set(),
    "extproc_streams_total": {"code"},
    "inflight_requests": {"endpoint_name", "namespace", "producer_name"},
    "inflight_tokens": {"endpoint_name", "namespace", "producer_name"},
}


async def test_the_metrics_page_after_traffic(tmp_path: Path) -> None:
    """Every metric that dashboards of the reference show is there under its name and labels, once."""
    from prometheus_client.parser import text_string_to_metric_families

    async with stack(2, arguments=["--pool-name=my-pool"], directory=tmp_path) as running:
        for _ in range(3):
            long = "a prompt that fills some blocks of the cache " * 30
            await running.chat(long)
            await running.chat(long, stream=True, stream_options={"include_usage": True})
        await running.chat(model="nobody")

        async def counted() -> bool:
            tokens = await running.metric("llm_d_epp_request_output_tokens_count")
            return tokens == 6 and await running.metric("llm_d_epp_prefix_indexer_size") > 0

        await running.until(counted)
        async with running.session.get(f"{running.admin}/metrics", headers={"accept": "text/plain"}) as page:
            text = await page.text()
        families = list(text_string_to_metric_families(text))
        assert len({family.name for family in families}) == len(families)
        labels: dict[str, set[str]] = {}
        for family in families:
            for sample in family.samples:
                labels.setdefault(sample.name.removeprefix("llm_d_epp_"), set(sample.labels))
        assert {name: labels.get(name) for name in REFERENCE} == REFERENCE
        assert await running.metric("llm_d_epp_ready_endpoints", name="my-pool") == 2
        assert await running.metric("llm_d_epp_request_error_total", error_code="ModelServerError") == 1
        assert await running.metric("llm_d_epp_request_ttft_seconds_count", streaming="true") == 3
        assert await running.metric("llm_d_epp_request_cached_tokens_sum") > 0


BROKEN = {
    "a plugin type": (f"{HEAD}plugins:\n  - type: queue-scorrer\n", 4, "plugins[0].type", "queue-scorer"),
    "a field": (f"{HEAD}plugins:\n  - type: queue-scorer\n    parametres: {{}}\n", 5, "plugins[0].parametres", "parameters"),
    "a parameter": (
        f"{HEAD}plugins:\n  - type: max-score-picker\n    parameters:\n      maxNumOfEndpoint: 2\n",
        6,
        "plugins[0].parameters.maxNumOfEndpoint",
        "maxNumOfEndpoints",
    ),
    "a reference": (
        f"{HEAD}plugins: [type: queue-scorer]\nschedulingProfiles:\n  - name: p\n    plugins:\n      - pluginRef: queue-score\n",
        7,
        "schedulingProfiles[0].plugins[0].pluginRef",
        "queue-scorer",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
async def test_a_broken_configuration_stops_the_start_and_fails_the_check(what: str, tmp_path: Path) -> None:
    """Both commands exit with 1 and name file, line, key and the nearest known name."""
    text, line, key, nearest = BROKEN[what]
    file = tmp_path / "config.yaml"
    file.write_text(text)
    place = f"{file}:{line}: {key}"
    for command in (["check", str(file)], ["serve", f"--config-file={file}", "--endpoints=127.0.0.1:9", "--log-format=json"]):
        code, output = await epp(*command)
        assert code == 1
        assert place in output
        assert f"did you mean '{nearest}'" in output
        assert "Traceback" not in output


EXAMPLES = {
    "the reference's default, written out": """
apiVersion: inference.networking.x-k8s.io/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: queue-scorer
- type: kv-cache-utilization-scorer
- type: prefix-cache-scorer
- type: approx-prefix-cache-producer
  parameters: {blockSizeTokens: 64, maxPrefixBlocksToMatch: 256, lruCapacityPerServer: 31250}
- type: max-score-picker
- type: single-profile-handler
schedulingProfiles:
- name: default
  plugins:
  - {pluginRef: queue-scorer, weight: 2}
  - {pluginRef: kv-cache-utilization-scorer, weight: 2}
  - {pluginRef: prefix-cache-scorer, weight: 3}
  - {pluginRef: max-score-picker}
""",
    "adapters": """
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: lora-affinity-scorer
- type: running-requests-size-scorer
- name: spread
  type: weighted-random-picker
  parameters: {maxNumOfEndpoints: 3}
schedulingProfiles:
- name: default
  plugins: [{pluginRef: lora-affinity-scorer, weight: 1}, {pluginRef: running-requests-size-scorer}, {pluginRef: spread}]
""",
    "labels and load": """
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- {name: fast, type: label-selector-filter, parameters: {matchLabels: {tier: fast}}}
- {type: load-aware-scorer, parameters: {threshold: 64}}
- {type: active-request-scorer}
- {type: token-load-scorer}
- {type: random-picker}
schedulingProfiles:
- name: default
  plugins:
  - {pluginRef: fast}
  - {pluginRef: load-aware-scorer, weight: 0.5}
  - {pluginRef: active-request-scorer, weight: 1.5}
  - {pluginRef: token-load-scorer}
  - {pluginRef: random-picker}
""",
}


@pytest.mark.parametrize("name", EXAMPLES)
async def test_configurations_as_the_reference_has_them_load(name: str, tmp_path: Path) -> None:
    """`epp check` shows what each makes the picker run, every plugin that it names included."""
    file = tmp_path / "config.yaml"
    file.write_text(EXAMPLES[name])
    code, output = await epp("check", str(file))
    assert code == 0, output
    for part in EXAMPLES[name].split("type: ")[1:]:
        assert part.split()[0].rstrip(",}") in output
    assert "profile default" in output


async def test_a_taken_port_is_named() -> None:
    """A second picker on the same port does not start, and says which port it could not have."""
    async with picker("--endpoints=127.0.0.1:9") as alone:
        for flag, port in (("grpc-port", alone.ports["grpc"]), ("metrics-port", alone.ports["metrics"])):
            ports = {"grpc-port": 0, "grpc-health-port": 0, "metrics-port": 0, flag: port}
            flags = [f"--{name}={value}" for name, value in ports.items()]
            code, output = await epp("serve", "--endpoints=127.0.0.1:9", "--bind-address=127.0.0.1", "--log-format=json", *flags)
            assert code == 1
            assert f"cannot listen on 127.0.0.1:{port}" in output
            assert "Traceback" not in output
