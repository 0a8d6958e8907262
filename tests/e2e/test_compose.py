"""docker-compose.yml without docker: the services' own commands, the same Envoy configuration, one request through."""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest

from epp.cli.stack import Child
from epp.gateway.process import run_envoy
from tests.gateway.compose import native

LOCAL = sys.platform == "linux"  # where all of 127.0.0.0/8 is this machine

pytestmark = pytest.mark.skipif(not LOCAL, reason="each service needs a loopback address of its own, which only Linux has")


def addresses(worker: str) -> dict[str, str]:
    """Give each service a loopback address that no other test worker uses."""
    net = 1 + sum(map(ord, worker)) % 200
    return {name: f"127.77.{net}.{host}" for host, name in enumerate(("envoy", "epp", "sim-1", "sim-2", "sim-3"), start=1)}


def proxy_config(command: list[str]) -> str:
    """Read the configuration that Envoy's command names."""
    return Path(command[command.index("-c") + 1]).read_text()


async def test_the_services_run_as_written(tmp_path: Path) -> None:
    """Envoy, picker and simulators start from the commands in the file, and a request is answered and counted."""
    hosts = addresses(str(tmp_path))
    commands = native(hosts, tmp_path)
    assert set(commands) == set(hosts)
    async with AsyncExitStack() as block:
        for name in ("sim-1", "sim-2", "sim-3"):
            assert commands[name][0] == "epp"
            child = await block.enter_async_context(await Child.start(name, commands[name][1:]))
            await child.says(" serves ")
        bind = [f"--bind-address={hosts['epp']}", "--drain-timeout=0s", "--log-format=json"]
        epp = await block.enter_async_context(await Child.start("epp", [*commands["epp"][1:], *bind]))
        await epp.says("serving")
        config = proxy_config(commands["envoy"])
        envoy = await block.enter_async_context(run_envoy(config, log_path=tmp_path / "envoy.log", concurrency=1))
        assert envoy.port == 8080
        session = await block.enter_async_context(aiohttp.ClientSession())
        body = {"model": "simulated-model", "messages": [{"role": "user", "content": "Hello"}]}
        async with session.post(f"{envoy.url}/v1/chat/completions", json=body) as answer:
            assert answer.status == 200
            assert answer.headers["x-simulated-server"] in {"sim-1", "sim-2", "sim-3"}
        admin = f"http://{hosts['epp']}:9090"
        async with session.get(f"{admin}/api/decisions?limit=1") as page:
            (decision,) = (await page.json())["decisions"]
            assert decision["by"] == "scheduler"
            assert decision["endpoint"].startswith("127.77.")
        async with session.get(f"{admin}/api/pool") as page, asyncio.timeout(10):
            assert len((await page.json())["endpoints"]) == 3
        async with session.get(f"{admin}/readyz") as page:  # what the file's health check asks
            assert page.status == 200
