from __future__ import annotations

import asyncio
import io
import json
import random
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from epp.simulator.calls import CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES
from epp.simulator.options import SimulatorOptions
from epp.simulator.server import SimulatedServer, serve
from epp.simulator.timing import Batch, LinearTiming

Start = Callable[..., Awaitable[tuple[SimulatedServer, aiohttp.ClientSession]]]

MODEL = "simulated-model"
FAST = LinearTiming(base_ms=0.2, prefill_us=0, decode_us=0, context_us=0)
HELLO = [{"role": "user", "content": "hello"}]
LONG = [{"role": "user", "content": "tell me more " * 200}]


async def post(session: aiohttp.ClientSession, path: str, **fields: Any) -> tuple[int, Any, aiohttp.ClientResponse]:
    """Post a body for the base model unless told otherwise: status, JSON, response."""
    async with session.post(path, json={"model": MODEL, **fields}) as response:
        return response.status, json.loads(await response.read()), response


async def until(holds: Callable[[], bool]) -> None:
    """Wait until `holds`."""
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - the engine is looked at from outside, as an operator would
            await asyncio.sleep(0.002)


async def metric(session: aiohttp.ClientSession, name: str) -> float:
    """Scrape and give the value of a series."""
    async with session.get("/metrics") as response:
        text = await response.text()
    return next(s.value for family in text_string_to_metric_families(text) for s in family.samples if s.name == name)


async def test_each_api_answers_and_says_who_answered(start: Start) -> None:
    """JSON of the API's own form, with the server's name in a header."""
    _, session = await start(name="one", timing=FAST)
    for path, fields, key in (
        (CHAT, {"messages": HELLO}, "choices"),
        (COMPLETIONS, {"prompt": "hello"}, "choices"),
        (EMBEDDINGS, {"input": "hello"}, "data"),
        (RESPONSES, {"input": "hello"}, "output"),
    ):
        status, body, response = await post(session, path, **fields)
        assert status == 200
        assert len(body[key]) == 1
        assert body["usage"]["total_tokens"] >= 2
        assert response.headers["x-simulated-server"] == "one"


async def test_max_tokens_is_honoured(start: Start) -> None:
    """As many tokens as asked for, the default without."""
    _, session = await start(timing=FAST, default_max_tokens=6)
    _, body, _ = await post(session, CHAT, messages=HELLO, max_tokens=9)
    assert body["usage"]["completion_tokens"] == 9
    _, body, _ = await post(session, CHAT, messages=HELLO)
    assert body["usage"]["completion_tokens"] == 6


async def test_a_repeated_prompt_is_reported_as_cached(start: Start) -> None:
    """cached_tokens is 0 first, then almost the whole prompt, and the next turn finds the answer too."""
    _, session = await start(timing=FAST)
    _, first, _ = await post(session, CHAT, messages=LONG, max_tokens=40)
    _, second, _ = await post(session, CHAT, messages=LONG, max_tokens=40)
    assert first["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    cached = second["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert second["usage"]["prompt_tokens"] - 16 <= cached < second["usage"]["prompt_tokens"]
    assert first["choices"] == second["choices"]
    turn = [*LONG, first["choices"][0]["message"], {"role": "user", "content": "and now?"}]
    _, third, _ = await post(session, CHAT, messages=turn)
    assert third["usage"]["prompt_tokens_details"]["cached_tokens"] > cached + 16


async def test_a_cache_salt_keeps_tenants_apart(start: Start) -> None:
    """An equal prompt with another salt finds nothing."""
    _, session = await start(timing=FAST)
    await post(session, CHAT, messages=LONG, cache_salt="a")
    _, body, _ = await post(session, CHAT, messages=LONG, cache_salt="b")
    assert body["usage"]["prompt_tokens_details"]["cached_tokens"] == 0


async def test_a_prompt_with_n_answers_counts_once(start: Start) -> None:
    """Its completions count each."""
    _, session = await start(timing=FAST)
    _, body, _ = await post(session, COMPLETIONS, prompt="x" * 400, n=3, max_tokens=5)
    assert len(body["choices"]) == 3
    assert (body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"]) == (100, 15)


async def test_a_stream_sends_an_event_a_token_as_it_comes(start: Start) -> None:
    """The first event arrives while the rest is still to be computed; the last is DONE, after the usage."""
    server, session = await start(ttft_ms=0, itl_ms=30)
    fields = {"model": MODEL, "messages": HELLO, "max_tokens": 4, "stream": True, "stream_options": {"include_usage": True}}
    async with session.post(CHAT, json=fields) as response:
        assert response.content_type == "text/event-stream"
        first = await response.content.readuntil(b"\n\n")
        assert server.engine.running
        rest = await response.content.read()
    data = [event.removeprefix(b"data: ") for event in (first + rest).split(b"\n\n")[:-1]]
    chunks = [json.loads(event) for event in data[:-1]]
    assert data[-1] == b"[DONE]"
    assert len(chunks) == 1 + 4 + 1
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks[:-1]] == [None] * 4 + ["length"]
    assert chunks[-1]["usage"]["completion_tokens"] == 4


async def test_fixed_latencies_are_kept(start: Start) -> None:
    """No token comes before its time."""
    _, session = await start(ttft_ms=60, itl_ms=20)
    began = asyncio.get_running_loop().time()
    await post(session, CHAT, messages=HELLO, max_tokens=3)
    assert asyncio.get_running_loop().time() - began >= 0.099


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_goes_away_frees_its_blocks(start: Start, stream: bool) -> None:
    """The engine is empty shortly after, whether the client was reading a stream or waiting for the whole."""
    server, session = await start(ttft_ms=0, itl_ms=60_000)
    fields = {"model": MODEL, "messages": LONG, "max_tokens": 50, "stream": stream}
    call = asyncio.create_task(session.post(CHAT, json=fields))
    await until(lambda: bool(server.engine.running and server.engine.running[0].generated))
    if stream:
        response = await call
        await response.content.readuntil(b"\n\n")
        assert server.engine.cache.used > 0
        response.close()
    else:
        assert server.engine.cache.used > 0
        call.cancel()
    await until(lambda: not server.engine.running)
    assert server.engine.cache.used == 0
    assert server.engine.totals.aborted == 1


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        (b"{nonsense", 400, "BadRequestError"),
        (b'{"model":"simulated-model"}', 400, "BadRequestError"),
        (b'{"model":"other","messages":[{"role":"user","content":"x"}]}', 404, "NotFoundError"),
        (b'{"model":"simulated-model","messages":[{}],"max_tokens":99999999}', 400, "BadRequestError"),
    ],
)
async def test_what_cannot_be_served_is_refused_in_openai_s_form(start: Start, body: bytes, status: int, kind: str) -> None:
    """With vLLM's status, type and code, and the server still says who it is."""
    server, session = await start()
    async with session.post(CHAT, data=body) as response:
        error = (await response.json())["error"]
        assert (response.status, error["type"], error["code"]) == (status, kind, status)
        assert response.headers["x-simulated-server"] == server.name == f"simulator-{server.port}"


async def test_unknown_paths_and_methods_are_refused_in_the_same_form(start: Start) -> None:
    """404 and 405, as JSON."""
    _, session = await start()
    async with session.get("/nowhere") as response:
        assert (response.status, (await response.json())["error"]["code"]) == (404, 404)
    async with session.get(CHAT) as response:
        assert (response.status, (await response.json())["error"]["code"]) == (405, 405)
        assert response.headers["allow"] == "POST"


async def test_requests_are_kept_byte_for_byte(start: Start) -> None:
    """Path, headers and body as they came, however large; scrapes and health checks are only counted."""
    server, session = await start(timing=FAST)
    body = json.dumps({"model": MODEL, "prompt": "x" * 5_000_000, "max_tokens": 10**9}).encode()
    async with session.post(f"{COMPLETIONS}?q=1", data=io.BytesIO(body), headers={"X-Test": "Yes"}) as response:
        assert response.status == 400
    for path in ("/health", "/metrics", "/metrics"):
        async with session.get(path) as response:
            assert response.status == 200
    [received] = server.requests
    assert (received.method, received.path, received.headers["x-test"]) == ("POST", f"{COMPLETIONS}?q=1", "Yes")
    assert received.body == body
    assert server.scrapes == 2


async def test_nothing_is_kept_when_told_so(start: Start) -> None:
    """A server that runs for days must not hold on to its requests."""
    server, session = await start(timing=FAST, record=0)
    await post(session, CHAT, messages=HELLO)
    assert not server.requests


async def test_the_metrics_page_shows_what_happened(start: Start) -> None:
    """Counters after a request, the time to first token among them."""
    _, session = await start(timing=FAST)
    await post(session, COMPLETIONS, prompt="x" * 400, max_tokens=5)
    assert await metric(session, "vllm:prompt_tokens_total") == 100
    assert await metric(session, "vllm:generation_tokens_total") == 5
    assert await metric(session, "vllm:time_to_first_token_seconds_count") == 1


async def test_fixed_signals_change_while_it_runs(start: Start) -> None:
    """So that a test can turn the routing around."""
    server, session = await start(fixed_queue=5, fixed_kv=0.5)
    assert await metric(session, "vllm:num_requests_waiting") == 5
    assert await metric(session, "vllm:kv_cache_usage_perc") == 0.5
    server.fixed.waiting, server.fixed.running = 9, 2
    assert await metric(session, "vllm:num_requests_waiting") == 9
    assert await metric(session, "vllm:num_requests_running") == 2


async def test_adapters_are_models_of_their_own(start: Start) -> None:
    """Listed under the base model, asked for by name, shown on the page, loaded and unloaded while it runs."""
    server, session = await start(loras=("sql",), max_loras=1, ttft_ms=0, itl_ms=60_000)
    call = asyncio.create_task(post(session, CHAT, model="sql", messages=HELLO))
    await until(lambda: bool(server.engine.adapters))
    async with session.get("/metrics") as response:
        assert 'running_lora_adapters="sql"' in await response.text()
    call.cancel()
    status, _, _ = await post(session, CHAT, model="new", messages=HELLO, max_tokens=1)
    assert status == 404
    async with session.post("/v1/load_lora_adapter", json={"lora_name": "new", "lora_path": "/new"}) as response:
        assert response.status == 200
    status, body, _ = await post(session, CHAT, model="new", messages=HELLO, max_tokens=1)
    assert (status, body["model"]) == (200, "new")
    async with session.get("/v1/models") as response:
        models = {model["id"]: model["parent"] for model in (await response.json())["data"]}
    assert models == {MODEL: None, "sql": MODEL, "new": MODEL}
    for expected in (200, 404):
        async with session.post("/v1/unload_lora_adapter", json={"lora_name": "new"}) as response:
            assert response.status == expected
    async with session.post("/v1/load_lora_adapter", json=["new"]) as response:
        assert response.status == 400


async def test_faults_are_injected_at_the_asked_rate() -> None:
    """With a given seed a given number of 500s; pages are never hit."""
    async with (
        serve(SimulatorOptions(fail_rate=0.5, timing=FAST), rng=random.Random(7)) as server,
        aiohttp.ClientSession(server.url) as session,
    ):
        statuses = [(await post(session, CHAT, messages=HELLO, max_tokens=1))[0] for _ in range(20)]
        assert set(statuses) == {200, 500}
        same = random.Random(7)
        assert [status == 500 for status in statuses] == [same.random() < 0.5 for _ in range(20)]
        async with session.get("/health") as response:
            assert response.status == 200


async def test_an_instant_server_answers_alike_at_once(start: Start) -> None:
    """The same forms, without an engine: whole, as a stream, pages, faults."""
    server, session = await start(instant=True, name="quick")
    status, body, response = await post(session, CHAT, messages=HELLO)
    assert (status, body["object"], response.headers["x-simulated-server"]) == (200, "chat.completion", "quick")
    async with session.post(CHAT, json={"model": MODEL, "stream": True}) as response:
        assert response.content_type == "text/event-stream"
        assert (await response.read()).endswith(b"data: [DONE]\n\n")
    assert await metric(session, "vllm:request_success_total") == 2
    for path, expected in (("/health", 200), ("/v1/models", 200), ("/nowhere", 404)):
        async with session.get(path) as response:
            assert response.status == expected
    server.fail_rate = 1.0
    assert (await post(session, CHAT, messages=HELLO))[0] == 500


@pytest.mark.parametrize("instant", [True, False])
async def test_it_ends_while_clients_hold_connections(instant: bool) -> None:
    """Leaving the block takes neither an idle connection's nor a running stream's patience, and the port is free again."""
    async with aiohttp.ClientSession() as session:
        async with asyncio.timeout(10):
            async with serve(SimulatorOptions(instant=instant, ttft_ms=0, itl_ms=60_000)) as server:
                fields = {"model": MODEL, "messages": HELLO, "stream": True, "max_tokens": 2}
                response = await session.post(server.url + CHAT, json=fields)
                await response.content.readuntil(b"\n\n")
        assert not server.engine.running
        response.close()
        with pytest.raises(aiohttp.ClientConnectionError):
            await session.get(server.url + "/health")


async def test_a_fault_of_the_engine_is_not_hidden() -> None:
    """The request that met it gets 500, and leaving the block raises it."""

    class Broken:
        def seconds(self, batch: Batch) -> float:
            msg = f"no timing for {batch}"
            raise ArithmeticError(msg)

    statuses = []

    async def run() -> None:
        async with (
            serve(SimulatorOptions(timing=Broken())) as server,
            aiohttp.ClientSession(server.url) as session,
            session.post(CHAT, json={"model": MODEL, "messages": HELLO}) as response,
        ):
            statuses.append(response.status)

    with pytest.raises(ArithmeticError):
        await run()
    assert statuses == [500]


async def test_it_listens_on_ipv6(start: Start) -> None:
    """The URL has the address in brackets."""
    try:
        server, session = await start(host="::1")
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    assert server.url == f"http://[::1]:{server.port}"
    async with session.get("/health") as response:
        assert response.status == 200
