"""`epp up`: a whole stack by one command, and nothing of it left when the command ends."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from epp.simulator.options import SimulatorOptions
from epp.simulator.server import serve
from tests.e2e.stack import free_port

MARK = "EPP_TEST_STACK"  # in the environment of the command and of all it starts
WAIT = 60.0

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="the processes left are looked for in /proc")


def descendants(mark: str) -> list[str]:
    """Give the command lines of the processes whose environment holds `mark`; those that have ended do not count."""
    found = []
    for directory in Path("/proc").iterdir():
        try:
            if directory.name.isdigit() and f"{MARK}={mark}".encode() in (directory / "environ").read_bytes().split(b"\0"):
                found.append((directory / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue  # it ended meanwhile, or is another user's
    return [line for line in found if line]


@dataclass
class Up:
    """An `epp up` that runs. `text` is all it said so far."""

    process: asyncio.subprocess.Process
    mark: str
    text: str = ""

    async def read(self) -> None:
        """Read until it ends."""
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            self.text += line.decode()

    async def ended(self) -> int:
        """Wait for its end and give the exit code; nothing that it started may be left."""
        async with asyncio.timeout(WAIT):
            await self.read()
            code = await self.process.wait()
        assert descendants(self.mark) == []
        return code

    async def says(self, word: str) -> None:
        """Wait until it says `word`."""
        assert self.process.stdout is not None
        async with asyncio.timeout(WAIT):
            while word not in self.text:
                line = await self.process.stdout.readline()
                assert line, f"ended before it said {word!r}: {self.text}"
                self.text += line.decode()


@asynccontextmanager
async def up(*arguments: str) -> AsyncIterator[Up]:
    """Run `epp up` with `arguments`."""
    mark = f"{os.getpid()}-{free_port()}"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "epp", "up", *arguments, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT, env={**os.environ, MARK: mark, "PYTHONUNBUFFERED": "1"}, start_new_session=True,
    )  # fmt: skip
    try:
        yield Up(process, mark)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_once_shows_every_sample_and_ends() -> None:
    """It names the servers, who answered each sample and the scores, exits with 0 and leaves no process."""
    async with up("--once", "--port", "0") as running:
        assert await running.ended() == 0, running.text
    assert "3 simulated" in running.text
    answered = set(re.findall(r"answered by (127\.0\.0\.1:\d+)", running.text))
    servers = set(re.findall(r"http://(127\.0\.0\.1:\d+)", running.text.splitlines()[0]))
    assert len(servers) == 3
    assert answered <= servers
    assert running.text.count("  200, ") == 4
    assert "All 4 samples were answered by the endpoint the picker chose" in running.text
    for scorer in ("queue-scorer ×2", "kv-cache-utilization-scorer ×2", "prefix-cache-scorer ×3"):
        assert scorer in running.text
    assert "→" in running.text


async def test_a_taken_port_is_replaced_and_ctrl_c_ends_everything() -> None:
    """With its port taken Envoy gets a free one; the printed curl works; SIGINT exits with 0 and leaves no process."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        taken = holder.getsockname()[1]
        async with up("--port", str(taken)) as running:
            await running.says("Running until Ctrl-C")
            (url,) = re.findall(r"curl -N (http://127\.0\.0\.1:\d+)/", running.text)
            assert url != f"http://127.0.0.1:{taken}"
            assert len(descendants(running.mark)) >= 4  # the command, the picker, the servers, Envoy
            async with aiohttp.ClientSession() as session, session.get(f"{url}/v1/models") as answer:
                assert answer.status == 200
            running.process.send_signal(signal.SIGINT)
            assert await running.ended() == 0, running.text


async def test_own_servers_take_the_place_of_simulated_ones() -> None:
    """--endpoints: the samples go to these and no simulated server is started."""
    async with serve(SimulatorOptions(model="one")) as first, serve(SimulatorOptions(model="one")) as second:
        async with up("--once", "--port", "0", "--mode", "duplex", "--endpoints", f"{first.url},{second.url}") as running:
            assert await running.ended() == 0, running.text
        assert "simulated:" not in running.text
        posts = [request for server in (first, second) for request in server.requests if request.method == "POST"]
        assert len(posts) == 4
        assert all(b'"one"' in request.body for request in posts)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--endpoints", "http://127.0.0.1:9"), "503"),
        (("--endpoints", "http://127.0.0.1:notaport"), "notaport"),
        (("--config-file", "/nowhere/config.yaml"), "/nowhere/config.yaml"),
    ],
)
async def test_what_cannot_work_ends_with_the_reason(arguments: tuple[str, ...], why: str) -> None:
    """A server that is not there, an address that is none, a file that is missing: the exit code and the text say so."""
    async with up("--once", "--port", "0", *arguments) as running:
        assert await running.ended() not in {0, None}
        assert why in running.text
        assert "Traceback" not in running.text
