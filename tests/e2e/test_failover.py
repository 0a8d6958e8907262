"""Without the picker, without a model server, without any: what clients get, and how soon all is well again."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from epp.cli.stack import Child
from epp.gateway.config import render
from epp.gateway.wiring import Wiring
from tests.e2e.configs import using
from tests.e2e.load import failed, load, nothing_in_flight
from tests.e2e.stack import Stack, free_port, stack, start_picker
from tests.e2e.wire import Channel

SERVING, NOT_SERVING = 1, 2
MODES = pytest.mark.parametrize("mode", ["held", "released", "duplex"])


async def kill(child: Child) -> None:
    """End a process without a word."""
    child.process.kill()
    await child.process.wait()


async def decision(running: Stack, request_id: str) -> str:
    """Give the endpoint that was decided on for a request, empty when the picker knows nothing of it."""
    found = (await running.state(f"/api/decisions?request_id={request_id}"))["decisions"]
    return str(found[0]["endpoint"]) if found else ""


@MODES
async def test_fail_open_while_the_picker_is_away_and_routed_again_when_it_is_back(mode: str) -> None:
    """Under load: from a second after SIGKILL on all get 200, spread over the pool; a new picker takes over unnoticed."""
    async with stack(mode=mode) as running:
        async with load(running) as clients:
            await clients.more(20)
            killed = time.monotonic()
            await kill(running.picker)
            await asyncio.sleep(1.0)
            without = await clients.more(60)
            assert {one.served for one in without} == {running.key(number) for number in range(3)}

            await running.start_picker()

            async def decides() -> bool:
                return bool(await decision(running, (await clients.more(1))[-1].request_id))

            await running.until(decides)
            for one in await clients.more(30):
                assert await decision(running, one.request_id) == one.served
        lost = failed(clients.sent)
        assert not [one for one in lost if one.began > killed + 1.0 or one.ended < killed]
        await nothing_in_flight(running)
        assert await running.metric("llm_d_epp_request_running") == 0


@MODES
async def test_fail_close_while_the_picker_is_away(mode: str) -> None:
    """Without the picker every request gets 503 and reaches no server; a GET too. It is back: requests are routed."""
    async with stack(1, mode=mode, failure="close") as running:
        assert (await running.chat()).status == 200
        await kill(running.picker)
        served = len(running.servers[0].requests)
        began = time.monotonic()
        for _ in range(5):
            assert (await running.chat()).status == 503
            assert (await running.request("GET", "/v1/models")).status == 503
        assert time.monotonic() - began < 10
        assert len(running.servers[0].requests) == served
        await running.start_picker()

        async def routed() -> bool:
            return (await running.chat()).status == 200

        await running.until(routed)


async def start_servers(count: int = 1, port: int = 0, **options: object) -> tuple[Child, list[str]]:
    """Start simulated servers as a process of their own; give their `ip:port` too."""
    given = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    child = await Child.start("servers", ["simulate", f"--port={port}", f"--count={count}", *given])
    lines = await child.says(" serves ", count=count)
    return child, [str(line["event"]).rpartition("//")[2] for line in lines]


@asynccontextmanager
async def stack_with_a_mortal(**options: Any) -> AsyncIterator[tuple[Stack, Child, str]]:
    """Run a stack of three servers, two of which stay; the third is a process of its own that may be killed."""
    staying, stay = await start_servers(2)
    mortal, (address,) = await start_servers(1, itl_ms=20, ttft_ms=20)
    async with staying, mortal:
        endpoints = f"--endpoints={','.join([*stay, address])}"
        async with stack(0, endpoints=False, arguments=[endpoints], **options) as running:
            yield running, mortal, address


async def test_a_killed_server_is_left_within_a_scrape_and_taken_back() -> None:
    """Under load no decision falls on a killed server after the next scrape, clients see no failure, and it comes back."""
    async with stack_with_a_mortal() as (running, mortal, address):
        async with load(running) as clients:

            async def served() -> bool:
                return address in {one.served for one in await clients.more(1)}

            await running.until(served)
            killed = time.monotonic()
            await kill(mortal)

            async def left() -> bool:
                rows = (await running.state("/api/pool"))["endpoints"]
                return any(row["endpoint"] == address and row["columns"]["unreachable"] for row in rows)

            await running.until(left, 1.0)
            for one in await clients.more(60):
                assert one.status == 200
                assert await decision(running, one.request_id) not in {"", address}
            back, _ = await start_servers(1, int(address.rpartition(":")[2]))
            async with back:
                await running.until(served)
        assert not [one for one in failed(clients.sent) if one.began > killed]
        assert all(one.ended > killed for one in failed(clients.sent))
        await nothing_in_flight(running)


@MODES
async def test_a_server_killed_in_the_middle_of_answers_leaves_nothing_in_flight(mode: str) -> None:
    """Streams of a killed server break off; the picker gives their load back, and tells them from answers that ended well."""
    spread = using("active-request-scorer")  # concurrent requests are sure to reach all three
    async with stack_with_a_mortal(mode=mode, config=spread) as (running, mortal, address):
        body = {"model": "simulated-model", "messages": [{"role": "user", "content": "go on"}], "max_tokens": 200, "stream": True}

        async def stream() -> bool:
            """Read an answer to its end; tell whether it broke off."""
            async with running.session.post(f"{running.url}/v1/chat/completions", json=body) as answer:
                try:
                    return not (await answer.read()).endswith(b"data: [DONE]\n\n")
                except aiohttp.ClientPayloadError:
                    return True

        answers = [asyncio.create_task(stream()) for _ in range(9)]

        async def all_run() -> bool:
            return sum((await running.inflight()).values()) == 9

        await running.until(all_run)
        there = (await running.inflight())[address]
        assert there > 0
        await asyncio.sleep(0.2)
        await kill(mortal)
        await running.until(lambda: gone(running, address))
        assert sum(await asyncio.gather(*answers)) == there
        await nothing_in_flight(running)
        assert await running.metric("llm_d_epp_request_running") == 0


async def gone(running: Stack, address: str) -> bool:
    """Tell whether nothing is in flight at `address`."""
    return not (await running.inflight())[address]


NOBODY = """
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
  - type: file-discovery
    parameters: {path: endpoints.yaml, watchFile: true}
dataLayer:
  discovery: {pluginRef: file-discovery}
"""


async def test_an_empty_pool_gets_503_and_a_reason(tmp_path: Path) -> None:
    """With no endpoints POST and GET alike are refused, saying so; the first endpoint in the file ends that."""
    file = tmp_path / "endpoints.yaml"
    file.write_text("endpoints: []\n")
    async with stack(1, config=NOBODY, endpoints=False, directory=tmp_path) as running:
        for answer in (await running.chat(), await running.request("GET", "/v1/models")):
            assert answer.status == 503
            assert answer.headers["x-llm-d-request-dropped-reason"] == "rejected-no-endpoints"
            assert answer.headers["retry-after"] == "1"
            assert answer.json()["error"]["message"] == "no ready endpoint in the pool"
        assert await running.metric("llm_d_epp_requests_rejected_total", reason="rejected-no-endpoints") == 2
        file.write_text(f"endpoints:\n  - {{address: 127.0.0.1, port: {running.servers[0].port}}}\n")

        async def served() -> bool:
            return (await running.chat()).status == 200

        await running.until(served)


def two_pickers(port: int) -> Callable[[Wiring], str]:
    """Give a rendering in which a second picker, at `port`, stands beside the first."""

    def rendered(wiring: Wiring) -> str:
        tree = yaml.safe_load(render(wiring))
        (cluster,) = [one for one in tree["static_resources"]["clusters"] if one["name"] == "picker"]
        (locality,) = cluster["load_assignment"]["endpoints"]
        place = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
        locality["lb_endpoints"].append({"endpoint": {"address": place}})
        return yaml.safe_dump(tree)

    return rendered


async def test_one_of_two_pickers_is_stopped_without_a_lost_request() -> None:
    """SIGTERM under load: requests move to the other picker, none fails, streams finish, the exit code is 0."""
    second = dict(zip(("grpc", "health", "metrics"), (free_port() for _ in range(3)), strict=True))
    async with stack(failure="close", arguments=["--drain-timeout=4s"], rendered=two_pickers(second["grpc"])) as running:
        endpoints = [argument for argument in running.arguments if argument.startswith("--endpoints")]
        other = await start_picker(second, [*endpoints, "--drain-timeout=0s", "--secure-serving=false"])
        async with other, load(running) as clients:
            await clients.more(40)
            slow = [asyncio.create_task(running.chat("slow", stream=True, max_tokens=150)) for _ in range(6)]
            await asyncio.sleep(0.3)
            began = time.monotonic()
            stopping = asyncio.create_task(running.picker.stop(signal.SIGTERM))
            await running.picker.says("draining")
            for answer in await asyncio.gather(*slow):
                assert answer.status == 200
                assert answer.body.endswith(b"data: [DONE]\n\n")
            assert await stopping == 0
            after = time.monotonic()
            await clients.more(30)
            assert not failed(clients.sent)
            assert after - began >= 4  # the whole drain time, though nobody asks it any more
            running.ports["metrics"] = second["metrics"]
            for one in clients.since(after):
                assert await decision(running, one.request_id) == one.served
        assert [entry for entry in other.entries if entry.get("level") == "error"] == []


@pytest.mark.parametrize("failure", ["open", "close"])
async def test_the_only_picker_is_stopped(failure: str) -> None:
    """SIGTERM under load: not ready at once, requests are served on during the drain, none is lost, the exit code is 0."""
    async with stack(failure=failure, arguments=["--drain-timeout=3s"]) as running:
        picker = running.picker
        async with Channel(running.ports["grpc"]) as main, Channel(running.ports["health"]) as health, load(running) as clients:
            watched = main.watch("readiness")
            assert (await watched.read()).status == SERVING
            await clients.more(20)
            slow = asyncio.create_task(running.chat("slow", stream=True, max_tokens=150))
            began = time.monotonic()
            stopping = asyncio.create_task(picker.stop(signal.SIGTERM))
            assert (await watched.read()).status == NOT_SERVING
            for port in (main, health):
                assert await port.check("") == NOT_SERVING
                assert await port.check("liveness") == SERVING
            async with running.session.get(f"{running.admin}/readyz") as page:
                assert page.status == 503
                assert "draining" in await page.text()
            if failure == "close":
                for one in await clients.more(30):  # only the picker can have answered these
                    assert await decision(running, one.request_id) == one.served
                clients.stop()
            assert (await slow).body.endswith(b"data: [DONE]\n\n")
            assert await stopping == 0
            assert time.monotonic() - began < 8
            if failure == "open":
                await clients.more(30)
        assert not failed(clients.sent)
        assert [entry for entry in picker.entries if entry.get("level") == "error"] == []
