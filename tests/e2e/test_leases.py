"""In-flight counts: whatever becomes of a request, they return to zero, and never fall below."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from pathlib import Path

import aiohttp
import pytest

from epp.simulator.options import SimulatorOptions
from tests.e2e.load import nothing_in_flight
from tests.e2e.stack import Stack, stack

MODES = pytest.mark.parametrize("mode", ["held", "released", "duplex"])
PATH = "/v1/chat/completions"


def body(*, stream: bool = False, tokens: int = 4, model: str = "simulated-model") -> bytes:
    """Write a chat request."""
    messages = [{"role": "user", "content": "tell me a story"}]
    return json.dumps({"model": model, "messages": messages, "max_tokens": tokens, "stream": stream}).encode()


async def total(running: Stack) -> float:
    """Add up what is in flight."""
    return sum((await running.inflight()).values())


async def in_flight(running: Stack, count: int) -> None:
    """Wait until `count` requests are in flight."""

    async def reached() -> bool:
        return await total(running) == count

    await running.until(reached)


async def proxy_stats(running: Stack) -> dict[str, int]:
    """Give what Envoy counted of ext_proc, by the last part of the name."""
    async with running.session.get(f"{running.envoy.admin_url}/stats?filter=ext_proc&format=json") as answer:
        stats = (await answer.json(content_type=None))["stats"]
    return {stat["name"].rpartition(".")[2]: stat["value"] for stat in stats if "value" in stat}


async def no_stream_failed(running: Stack) -> None:
    """Make sure that Envoy and the picker understood each other throughout."""
    stats = await proxy_stats(running)
    assert stats["streams_started"] > 0
    assert (stats["streams_failed"], stats["spurious_msgs_received"]) == (0, 0), stats
    assert await running.metric("llm_d_epp_internal_faults_total") == 0
    assert await running.metric("llm_d_epp_plugin_failures_total") == 0


@MODES
async def test_clients_that_go_away_leave_nothing_in_flight(mode: str) -> None:
    """A client may leave within its body, before the answer, or within it: what it held is given back."""
    slow = SimulatorOptions(ttft_ms=1000, itl_ms=100)
    async with stack([slow, slow], mode=mode) as running:
        begun: list[int] = []

        async def client(number: int) -> None:
            data = body(stream=number % 2 == 0, tokens=200)
            # A session of its own has a connection of its own, which it closes.
            async with aiohttp.ClientSession() as session, session.post(f"{running.url}{PATH}", data=data) as answer:
                await answer.content.readany()
                begun.append(number)
                await asyncio.sleep(60)

        clients = [asyncio.create_task(client(number)) for number in range(8)]
        await in_flight(running, 8)
        for early in clients[:2]:
            early.cancel()
        await in_flight(running, 6)
        assert not begun

        async def streaming() -> bool:
            return sorted(begun) == [2, 4, 6]

        await running.until(streaming)
        assert await total(running) == 6
        for late in clients[2:]:
            late.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
        await nothing_in_flight(running, 5)

        async def told() -> bool:
            return await running.metric("llm_d_epp_requests_finished_total", cause="client-disconnect") == 8

        await running.until(told, 5)
        assert await running.metric("llm_d_epp_request_running") == 0
        await within_the_body(running)
        await no_stream_failed(running)


async def within_the_body(running: Stack) -> None:
    """Send half a body and leave: nothing is routed, and no stream stays open."""
    routed = await running.metric("llm_d_epp_request_total")
    reader, writer = await asyncio.open_connection("127.0.0.1", running.envoy.port)
    writer.write(f"POST {PATH} HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n".encode() + body()[:20])
    await writer.drain()

    async def streams(count: int) -> None:
        async def reached() -> bool:
            return await running.metric("llm_d_epp_extproc_streams_inflight") == count

        await running.until(reached)

    await streams(1)
    writer.close()
    del reader
    await streams(0)
    assert await running.metric("llm_d_epp_request_total") == routed
    assert await total(running) == 0


FILE = """
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
  - type: file-discovery
    parameters: {path: endpoints.yaml, watchFile: true}
dataLayer:
  discovery: {pluginRef: file-discovery}
"""


def write(file: Path, ports: list[int]) -> None:
    """Put the endpoints at `ports` into the file, in one go."""
    fresh = file.with_suffix(".new")
    fresh.write_text(json.dumps({"endpoints": [{"address": "127.0.0.1", "port": port} for port in ports]}))
    fresh.replace(file)


@pytest.mark.parametrize("mode", ["held", "released"])
async def test_an_endpoint_that_leaves_and_returns_keeps_its_count(mode: str, tmp_path: Path) -> None:
    """Removed from the file and added again while requests run there: no count is lost, doubled or negative."""
    file = tmp_path / "endpoints.yaml"
    options = [SimulatorOptions(ttft_ms=50, itl_ms=20)] * 2
    write(file, [1])  # replaced as soon as the ports are known
    async with stack(options, mode=mode, config=FILE, endpoints=False, directory=tmp_path) as running:
        ports = [server.port for server in running.servers]
        write(file, ports)
        known = [running.key(number) for number in range(2)]
        await members(running, known)
        answers = [asyncio.create_task(running.chat(stream=True, max_tokens=150)) for _ in range(8)]
        await in_flight(running, 8)
        there = (await running.inflight())[known[1]]
        assert there > 0
        for _ in range(2):
            write(file, ports[:1])
            await members(running, known[:1])
            write(file, ports)
            await members(running, known)
            assert (await running.inflight())[known[1]] == there
        # Gone at the moment its requests end, and back afterwards.
        write(file, ports[:1])
        await members(running, known[:1])
        assert {answer.status for answer in await asyncio.gather(*answers)} == {200}
        await nothing_in_flight(running)
        write(file, ports)
        await members(running, known)
        await nothing_in_flight(running)
        assert (await running.chat()).status == 200
        await nothing_in_flight(running)
        await no_stream_failed(running)


async def members(running: Stack, keys: list[str]) -> None:
    """Wait until the pool is exactly `keys`; nobody in it may count less than nothing."""

    async def reached() -> bool:
        leases = await running.inflight()
        assert min(leases.values(), default=0) >= 0
        return sorted(leases) == sorted(keys)

    await running.until(reached)


async def test_a_proxy_that_dies_in_released_mode_is_not_waited_for() -> None:
    """Only the access log tells the end there: when its proxy is killed, its requests are given up after the grace."""
    async with stack([SimulatorOptions(ttft_ms=100, itl_ms=200)], mode="released") as running:
        answers = [asyncio.create_task(running.chat(stream=True, max_tokens=500)) for _ in range(5)]
        await in_flight(running, 5)
        await asyncio.sleep(0.3)
        assert await running.metric("llm_d_epp_extproc_streams_inflight") == 0
        assert await total(running) == 5
        running.envoy.process.kill()
        ends = await asyncio.gather(*answers, return_exceptions=True)
        assert all(isinstance(end, aiohttp.ClientError) for end in ends)
        await nothing_in_flight(running, 14)
        assert await running.metric("llm_d_epp_requests_finished_total", cause="error") == 5
        assert await running.metric("llm_d_epp_exchanges_unreported") == 5
        assert await running.metric("llm_d_epp_request_running") == 0


KINDS = ("plain", "stream", "leaves early", "leaves late", "bad body", "no such model", "get")


async def ask(running: Stack, kind: str, number: int) -> int:
    """Send a request of a kind; give its status, 0 for one that was broken off."""
    async with asyncio.timeout(30):
        match kind:
            case "plain":
                return (await running.request("POST", PATH, body(tokens=1 + number % 20))).status
            case "stream":
                answer = await running.request("POST", PATH, body(stream=True, tokens=1 + number % 20))
                assert answer.body.endswith(b"data: [DONE]\n\n")
                return answer.status
            case "bad body":
                return (await running.request("POST", PATH, body()[: number % 40])).status
            case "no such model":
                return (await running.request("POST", PATH, body(model="nobody"))).status
            case "get":
                return (await running.request("GET", "/v1/models")).status
    late = kind == "leaves late"
    seconds = 30 if late else 0.01 + number % 10 / 50
    with contextlib.suppress(TimeoutError):
        async with (
            asyncio.timeout(seconds),
            aiohttp.ClientSession() as session,
            session.post(f"{running.url}{PATH}", data=body(stream=late, tokens=2000)) as broken,
        ):
            await broken.content.readany()
    return 0


@MODES
async def test_hundreds_of_requests_of_all_kinds_leave_the_books_balanced(mode: str) -> None:
    """Every request is counted once, as what it was; nothing stays in flight; Envoy saw no fault on any stream."""
    async with stack(mode=mode) as running:
        kinds = list(itertools.islice(itertools.cycle(KINDS), 42 * len(KINDS)))
        asked = await asyncio.gather(*(ask(running, kind, number) for number, kind in enumerate(kinds)))
        statuses: dict[str, set[int]] = {kind: set() for kind in KINDS}
        for kind, status in zip(kinds, asked, strict=True):
            statuses[kind].add(status)
        assert statuses == {
            "plain": {200}, "stream": {200}, "get": {200}, "bad body": {400}, "no such model": {404},
            "leaves early": {0}, "leaves late": {0},
        }  # fmt: skip
        await nothing_in_flight(running)

        async def balanced() -> bool:
            finished = await running.metric("llm_d_epp_requests_finished_total")
            return finished == await running.metric("llm_d_epp_request_total")

        await running.until(balanced, 5)
        natural = await running.metric("llm_d_epp_requests_finished_total", cause="natural")
        left = await running.metric("llm_d_epp_requests_finished_total", cause="client-disconnect")
        assert natural == 42 * 4
        assert 42 <= left <= 42 * 2
        assert await running.metric("llm_d_epp_requests_finished_total") == natural + left
        assert await running.metric("llm_d_epp_request_total", model_name="simulated-model") == 42 * 2 + left
        assert await running.metric("llm_d_epp_requests_rejected_total", code="400") == 42
        assert await running.metric("llm_d_epp_request_error_total", model_name="nobody") == 42
        for gauge in ("request_running", "extproc_streams_inflight", "exchanges_open", "exchanges_unreported"):
            assert await running.metric(f"llm_d_epp_{gauge}") == 0, gauge
        assert await running.metric("llm_d_epp_inflight_tokens") == 0
        await no_stream_failed(running)
