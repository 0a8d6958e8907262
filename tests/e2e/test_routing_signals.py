"""Routing by what the model servers report and by what the picker counts, each scorer alone, behind a real Envoy."""

from __future__ import annotations

import asyncio
import json
from collections import Counter

import pytest
from aiohttp import web

from epp.simulator.options import SimulatorOptions
from tests.e2e.configs import using
from tests.e2e.stack import Stack, free_port, stack

QUICK = SimulatorOptions(speed=50)


async def served(running: Stack, count: int, model: str = "simulated-model") -> Counter[str]:
    """Send `count` requests one after the other and count who answered."""
    answers = [await running.chat(f"question {number}", model=model) for number in range(count)]
    assert [answer.status for answer in answers] == [200] * count, answers[0].body
    return Counter(answer.served for answer in answers)


@pytest.mark.parametrize(
    ("scorer", "signal", "idle", "busy"),
    [
        ("queue-scorer", "waiting", 1.0, 6.0),
        ("running-requests-size-scorer", "running", 2.0, 9.0),
        ("kv-cache-utilization-scorer", "kv_usage", 0.2, 0.7),
        ("load-aware-scorer", "waiting", 3.0, 40.0),
    ],
)
async def test_a_scraped_signal_decides_and_a_change_of_it_is_followed(
    scorer: str, signal: str, idle: float, busy: float
) -> None:
    """All requests go to the server whose figure is best; when another's becomes best they go there."""
    async with stack([QUICK] * 3, config=using(scorer)) as running:
        for best in (1, 0):
            for number, server in enumerate(running.servers):
                setattr(server.fixed, signal, idle if number == best else busy)
            await running.scraped()
            assert await served(running, 5) == {running.key(best): 5}


async def test_an_adapter_s_requests_go_where_it_is_loaded_then_where_there_is_room() -> None:
    """lora-affinity-scorer: active beats room, room beats full."""
    options = [SimulatorOptions(loras=("sql", "law"), max_loras=1, speed=50) for _ in range(3)]
    async with stack(options, config=using("lora-affinity-scorer")) as running:
        loaded: tuple[tuple[str, ...], ...] = (("law",), ("sql",), ())
        for server, adapters in zip(running.servers, loaded, strict=True):
            server.fixed.running_adapters, server.fixed.waiting_adapters = adapters, ()
        await running.scraped()
        assert await served(running, 4, model="sql") == {running.key(1): 4}
        assert await served(running, 4, model="law") == {running.key(0): 4}
        running.servers[1].fixed.running_adapters = ("law",)
        await running.scraped()
        assert await served(running, 4, model="sql") == {running.key(2): 4}


async def test_requests_in_flight_are_counted_from_the_choice_on() -> None:
    """active-request-scorer: a burst that no scrape could have seen is spread exactly evenly, and the count returns to zero."""
    options = [SimulatorOptions(ttft_ms=1500) for _ in range(3)]
    async with stack(options, config=using("active-request-scorer")) as running:
        answers = await asyncio.gather(*(running.chat(f"question {number}") for number in range(9)))
        assert Counter(answer.served for answer in answers) == {running.key(number): 3 for number in range(3)}

        async def idle() -> bool:
            return not any((await running.inflight()).values())

        await running.until(idle)


async def test_prompt_tokens_in_flight_weigh_more_than_their_number_of_requests() -> None:
    """token-load-scorer: while one server computes a long prompt, the short ones go to the others."""
    options = [SimulatorOptions(ttft_ms=1500) for _ in range(3)]
    async with stack(options, config=using("token-load-scorer")) as running:
        long = asyncio.create_task(running.chat("word " * 8000))

        async def chosen() -> list[str]:
            return [endpoint for endpoint, leases in (await running.inflight()).items() if leases]

        (busy,) = await running.until(chosen)
        answers = await asyncio.gather(*(running.chat(f"short {number}") for number in range(8)))
        assert Counter(answer.served for answer in answers) == {
            running.key(number): 4 for number in range(3) if running.key(number) != busy
        }
        assert (await long).served == busy


async def test_a_prefix_stays_with_its_server_and_different_prefixes_spread() -> None:
    """prefix-cache-scorer: the second request of a conversation finds its tokens cached, as the server's usage says."""
    async with stack([QUICK] * 3, config=using("prefix-cache-scorer")) as running:
        homes = {}
        for number in range(12):
            prefix = f"document {number}: " + f"line {number} of it. " * 200
            first = await running.chat(prefix + "What is it about?")
            again = await running.chat(prefix + "Who wrote it?")
            assert again.served == first.served
            assert first.json()["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
            usage = again.json()["usage"]
            assert usage["prompt_tokens_details"]["cached_tokens"] > 0.9 * usage["prompt_tokens"]
            homes[number] = first.served
        assert len(set(homes.values())) > 1
        assert await running.metric("llm_d_epp_prefix_indexer_hit_bytes_count") > 0


async def test_equal_servers_share_the_requests() -> None:
    """max-score-picker draws among equals: without it the first of the list would get all."""
    async with stack([QUICK] * 3, config=using("queue-scorer")) as running:
        await running.scraped()
        assert set(await served(running, 40)) == {running.key(number) for number in range(3)}


async def test_the_default_configuration_prefers_the_idle_server_and_the_cached_prefix() -> None:
    """Without a configuration file queue, KV cache and prefix decide together, the prefix against small differences of load."""
    async with stack([QUICK] * 3) as running:
        for server, usage in zip(running.servers, (0.9, 0.1, 0.9), strict=True):
            server.fixed.waiting, server.fixed.kv_usage = (0.0 if usage < 0.5 else 8.0), usage
        await running.scraped()
        assert await served(running, 4) == {running.key(1): 4}
        prefix = "the same long beginning. " * 200
        assert (await running.chat(prefix)).served == running.key(1)
        for server in running.servers:  # prefix 3 of 3 now outweighs a KV cache that is half full: 2 x 0.5
            server.fixed.waiting, server.fixed.kv_usage = 0.0, 0.0
        running.servers[1].fixed.kv_usage = 0.5
        await running.scraped()
        assert (await running.chat(prefix)).served == running.key(1)
        assert (await running.chat("short")).served != running.key(1)


async def answers_but_no_metrics() -> web.AppRunner:
    """Start a model server that answers requests, and never answers for its metrics."""

    async def metrics(_request: web.Request) -> web.Response:
        await asyncio.sleep(60)
        return web.Response()

    async def infer(_request: web.Request) -> web.Response:
        return web.json_response({"choices": []})

    application = web.Application()
    application.add_routes([web.get("/metrics", metrics), web.post("/v1/chat/completions", infer)])
    runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    return runner


@pytest.mark.parametrize("scorer", ["queue-scorer", "kv-cache-utilization-scorer", ""])
async def test_a_server_of_which_nothing_is_known_is_not_preferred_to_an_idle_one(scorer: str) -> None:
    """Unknown is not zero: the idle server that reports gets the requests, and the silent one gets them when it is alone."""
    port, reporting = free_port(), SimulatorOptions(port=free_port(), speed=50)
    runner = await answers_but_no_metrics()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        urls = f"--endpoints=http://127.0.0.1:{port},http://127.0.0.1:{reporting.port}"
        async with stack([reporting], config=using(scorer) if scorer else "", endpoints=False, arguments=[urls]) as running:
            await running.scraped()
            rows = (await running.state("/api/pool"))["endpoints"]
            assert [row["endpoint"] for row in rows] == [f"127.0.0.1:{port}", f"127.0.0.1:{reporting.port}"]
            assert await served(running, 12) == {running.key(0): 12}
    finally:
        await runner.cleanup()


async def test_every_decision_can_be_looked_up_with_each_candidate_s_scores() -> None:
    """/api/decisions says what each scorer gave each server, and the sum that decided."""
    config = using("queue-scorer", "kv-cache-utilization-scorer")
    async with stack([QUICK] * 2, config=config) as running:
        for server, waiting in zip(running.servers, (0.0, 4.0), strict=True):
            server.fixed.waiting, server.fixed.kv_usage = waiting, 0.25
        await running.scraped()
        answer = await running.chat()
        (decision,) = (await running.state(f"/api/decisions?request_id={answer.request_id}"))["decisions"]
        assert decision["endpoint"] == answer.served == running.key(0)
        scores = {row["endpoint"]: {name: one["score"] for name, one in row["scores"].items()} for row in decision["candidates"]}
        assert scores == {
            running.key(0): {"queue-scorer": 1.0, "kv-cache-utilization-scorer": 0.75},
            running.key(1): {"queue-scorer": 0.0, "kv-cache-utilization-scorer": 0.75},
        }
        assert [row["total"] for row in decision["candidates"]] == [1.75, 0.75]
        assert "hello" not in json.dumps(decision)
