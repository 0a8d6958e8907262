"""Who is eligible, who is picked, and how the choice reaches Envoy: filters, pickers, fallbacks, scores, metadata."""

from __future__ import annotations

import asyncio
import json
import socket
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from epp.simulator.options import SimulatorOptions
from epp.simulator.server import serve
from tests.e2e.configs import changed, configuration, endpoints_file, shown, using
from tests.e2e.stack import Stack, free_port, stack

DESTINATION = "x-gateway-destination-endpoint"
DISCOVERY = {"dataLayer": {"discovery": {"pluginRef": "file-discovery"}}}


async def burst(running: Stack, count: int) -> Counter[str]:
    """Send `count` requests at once and count who answered."""
    answers = await asyncio.gather(*(running.chat(f"question {number}") for number in range(count)))
    assert {answer.status for answer in answers} == {200}
    return Counter(answer.served for answer in answers)


async def labelled(running: Stack, ports: list[int], *labels: dict[str, str]) -> None:
    """Wait until the pool has these labels."""

    async def there() -> bool:
        rows = (await running.state("/api/pool"))["endpoints"]
        return {row["endpoint"]: row["labels"] for row in rows} == {
            f"127.0.0.1:{port}": given for port, given in zip(ports, labels, strict=True)
        }

    await running.until(there)


async def test_a_label_selector_keeps_requests_on_the_servers_that_match_and_follows_the_file(tmp_path: Path) -> None:
    """Labels come from the endpoints file; when it changes, the next requests follow; when nobody matches it is a 429."""
    ports = [free_port() for _ in range(3)]
    endpoints = tmp_path / "endpoints.yaml"
    gold, spot = {"tier": "gold"}, {"tier": "spot"}
    endpoints.write_text(endpoints_file(ports, gold, spot, gold))
    config = configuration(
        [
            {"type": "label-selector-filter", "parameters": {"matchLabels": {"tier": "gold"}}},
            {"type": "file-discovery", "parameters": {"path": "endpoints.yaml", "watchFile": True}},
        ],
        [{"pluginRef": "label-selector-filter"}],
        **DISCOVERY,
    )
    options = [SimulatorOptions(port=port, speed=50) for port in ports]
    async with stack(options, config=config, endpoints=False, directory=tmp_path) as running:
        found = await burst(running, 40)
        assert set(found) == {running.key(0), running.key(2)}
        endpoints.write_text(endpoints_file(ports, spot, gold, spot))
        await labelled(running, ports, spot, gold, spot)
        assert await burst(running, 10) == {running.key(1): 10}
        endpoints.write_text(endpoints_file(ports, spot, spot, spot))
        await labelled(running, ports, spot, spot, spot)
        refused = await running.chat()
        assert (refused.status, refused.headers["x-llm-d-request-dropped-reason"]) == (429, "rejected-saturated")


async def test_with_two_endpoints_named_envoy_retries_on_the_second_when_the_first_is_dead() -> None:
    """The picker still believes in a server that died a moment ago; the client notices nothing, and the lease ends."""
    options = [SimulatorOptions(port=free_port(), speed=50) for _ in range(2)]
    async with AsyncExitStack() as block:
        doomed = await block.enter_async_context(serve(SimulatorOptions(fixed_queue=0)))
        urls = ",".join([doomed.url, *(f"http://127.0.0.1:{one.port}" for one in options)])
        arguments = [f"--endpoints={urls}", "--refresh-metrics-interval=60s", "--metrics-staleness-threshold=600s"]
        config = using("queue-scorer", {"type": "max-score-picker", "parameters": {"maxNumOfEndpoints": 2}})
        renderer = changed(shown(x_chosen=f"%DYNAMIC_METADATA(envoy.lb:{DESTINATION})%"))
        fixed = [SimulatorOptions(port=one.port, speed=50, fixed_queue=2 + 3 * n) for n, one in enumerate(options)]
        async with stack(fixed, config=config, endpoints=False, arguments=arguments, rendered=renderer) as running:

            async def scraped() -> bool:
                rows = (await running.state("/api/pool"))["endpoints"]
                return all(row["columns"]["waiting"] is not None for row in rows)

            await running.until(scraped)
            await block.aclose()
            answer = await running.chat()
            first = f"127.0.0.1:{doomed.port}"
            assert answer.status == 200
            assert answer.headers["x-chosen"] == f"{first},{running.key(0)}"
            assert answer.served == running.key(0)
            (request,) = running.servers[0].requests
            assert request.headers[DESTINATION] == f"{first},{running.key(0)}"
            (decision,) = (await running.state(f"/api/decisions?request_id={answer.request_id}"))["decisions"]
            assert decision["endpoints"] == [first, running.key(0)]

            async def idle() -> bool:
                return not any((await running.inflight()).values())

            await running.until(idle)


async def test_random_picker_spreads_whatever_the_scores() -> None:
    """A server with a long queue gets its share too."""
    async with stack([SimulatorOptions(speed=50)] * 3, config=using("queue-scorer", "random-picker")) as running:
        running.servers[0].fixed.waiting = 0.0
        running.servers[1].fixed.waiting = running.servers[2].fixed.waiting = 50.0
        await running.scraped()
        found = await burst(running, 60)
        assert set(found) == {running.key(number) for number in range(3)}


async def test_weighted_random_picker_spreads_in_proportion_to_the_scores() -> None:
    """Totals of 0.8 and 0.2: the better server gets most, the other some."""
    config = using("kv-cache-utilization-scorer", "weighted-random-picker")
    async with stack([SimulatorOptions(speed=50)] * 2, config=config) as running:
        running.servers[0].fixed.kv_usage, running.servers[1].fixed.kv_usage = 0.2, 0.8
        await running.scraped()
        found = await burst(running, 120)
        assert found[running.key(0)] > found[running.key(1)] > 0


@pytest.mark.parametrize("emit", [True, False])
async def test_the_scores_of_all_endpoints_are_in_the_metadata_when_asked_for(*, emit: bool) -> None:
    """--emit-endpoint-scores: Envoy can log or show every candidate's total beside the choice."""
    renderer = changed(
        shown(
            x_scores=f"%DYNAMIC_METADATA(envoy.lb:{DESTINATION}-scores)%",
            x_chosen=f"%DYNAMIC_METADATA(envoy.lb:{DESTINATION})%",
            x_reported=f"%DYNAMIC_METADATA(envoy.lb:{DESTINATION}-served)%",
        )
    )
    flags = ["--emit-endpoint-scores"] if emit else []
    async with stack(2, config=using("queue-scorer"), arguments=flags, rendered=renderer) as running:
        running.servers[0].fixed.waiting, running.servers[1].fixed.waiting = 4.0, 0.0
        await running.scraped()
        answer = await running.chat()
        assert answer.headers["x-chosen"] == answer.headers["x-reported"] == answer.served == running.key(1)
        if emit:
            assert json.loads(answer.headers["x-scores"]) == {running.key(0): 0.0, running.key(1): 1.0}
        else:
            assert "x-scores" not in answer.headers


async def test_ipv6_endpoints_are_routed_to() -> None:
    """The choice is written with brackets, and Envoy finds the endpoint by it."""
    if not socket.has_ipv6:
        pytest.skip("this Python has no IPv6")
    try:
        port = free_port("::1")
    except OSError as error:
        pytest.skip(f"this machine has no IPv6 loopback: {error}")
    options = [SimulatorOptions(host="::1", port=port, speed=50), SimulatorOptions(speed=50)]
    async with stack(options, config=using("queue-scorer")) as running:
        running.servers[0].fixed.waiting, running.servers[1].fixed.waiting = 0.0, 5.0
        await running.scraped()
        answer = await running.chat()
        (request,) = running.servers[0].requests
        assert answer.served == request.headers[DESTINATION] == f"[::1]:{port}"
