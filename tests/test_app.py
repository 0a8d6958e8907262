"""The app's own: what runs in the background may fail, and what stops the start stops it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from epp.app import RESTART_SECONDS, _forever, build
from epp.config.options import ServeOptions
from epp.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

HEAD = "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\n"
FILE = f"""{HEAD}
plugins: [{{type: file-discovery, parameters: {{path: endpoints.yaml}}}}]
dataLayer: {{discovery: {{pluginRef: file-discovery}}}}
"""
MINE = f"""{HEAD}
plugins: [{{type: "./mine.py:Mine"}}]
dataLayer: {{discovery: {{pluginRef: "./mine.py:Mine"}}}}
"""
QUITTER = """
import asyncio

from epp.api import EndpointSpec

class Mine:
    times = 0

    async def run(self, update):
        self.times += 1
        if self.times == 1:
            raise SystemExit(3)
        if self.times == 2:
            raise asyncio.CancelledError
        update([EndpointSpec("127.0.0.1", 9)])
        await asyncio.Event().wait()
"""


def options(config: Path) -> ServeOptions:
    """Serve `config` on free ports."""
    return ServeOptions(
        config_file=str(config), bind_address="127.0.0.1", grpc_port=0, grpc_health_port=0, metrics_port=0, drain_timeout=0.0,
        secure_serving=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    "error", [ValueError(), SystemExit(0), KeyboardInterrupt(), asyncio.CancelledError(), BaseExceptionGroup("", [SystemExit()])]
)
async def test_a_background_task_that_fails_is_logged_and_started_again(error: BaseException) -> None:
    """Whatever it raises, the picker serves on; a cancellation that nobody asked for is a failure too."""
    left: list[BaseException | None] = [error, error, None]
    slept: list[float] = []

    async def run() -> None:
        if (failure := left.pop(0)) is not None:
            raise failure

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    with capture_logs() as logs:
        await _forever("discovery", run, started=lambda: False, sleep=sleep)
    assert left == []
    assert slept == [RESTART_SECONDS] * 2
    assert [(line["task"], line["error"]) for line in logs] == [("discovery", repr(error))] * 2
    assert "test_app.py:" in logs[0]["place"]


async def test_a_background_task_that_is_cancelled_ends() -> None:
    """The end of the picker is no failure."""
    begun = asyncio.Event()

    async def run() -> None:
        begun.set()
        await asyncio.Event().wait()

    with capture_logs() as logs:
        task = asyncio.ensure_future(_forever("discovery", run, started=lambda: True))
        await begun.wait()
        task.cancel()
        await asyncio.wait([task])
    assert task.cancelled()
    assert logs == []


async def test_an_unusable_configuration_ends_the_start_and_later_nothing() -> None:
    """Before endpoints are known a `ConfigError` is raised, also one in a group; afterwards the last good state is served."""
    unusable = ConfigError("no such file")
    started = False

    async def run() -> None:
        nonlocal started
        if started:
            return
        raise ExceptionGroup("", [ValueError(), ExceptionGroup("", [unusable])])

    async def sleep(_seconds: float) -> None:
        nonlocal started
        started = True

    with pytest.raises(ConfigError) as caught:
        await _forever("discovery", run, started=lambda: False, sleep=sleep)
    assert caught.value is unusable
    with capture_logs() as logs:
        await _forever("discovery", run, started=lambda: True, sleep=sleep)
    assert len(logs) == 1


async def test_a_discovery_that_quits_does_not_end_the_picker(tmp_path: Path) -> None:
    """`SystemExit` from a plugin in the background: logged, started again, and its endpoints are known in the end."""
    (tmp_path / "mine.py").write_text(QUITTER)
    (tmp_path / "epp.yaml").write_text(MINE)
    picker = build(options(tmp_path / "epp.yaml"))
    known = asyncio.Event()
    picker.pool.watch(known.set)
    with capture_logs() as logs:
        async with picker.running(), asyncio.timeout(30):
            await known.wait()
    assert [endpoint.key for endpoint in picker.pool.endpoints] == ["127.0.0.1:9"]
    failures = [line["error"] for line in logs if line["event"].startswith("background task failed")]
    assert failures == ["SystemExit(3)", "CancelledError()"]


async def test_a_missing_endpoints_file_ends_the_block(tmp_path: Path) -> None:
    """Everything that was started is stopped, and the error comes out in a group."""
    (tmp_path / "epp.yaml").write_text(FILE)
    picker = build(options(tmp_path / "epp.yaml"))
    with pytest.RaisesGroup(ConfigError):
        async with picker.running(), asyncio.timeout(30):
            await asyncio.Event().wait()
    assert not [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]


def test_serve_exits_with_1_and_says_which_file_is_missing(tmp_path: Path) -> None:
    """One line, no traceback: an operator reads it."""
    (tmp_path / "epp.yaml").write_text(FILE)
    ports = ("--grpc-port=0", "--grpc-health-port=0", "--metrics-port=0", "--bind-address=127.0.0.1", "--log-format=text")
    done = subprocess.run(
        [sys.executable, "-m", "epp", "serve", f"--config-file={tmp_path / 'epp.yaml'}", *ports],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert errors == [f"error: {tmp_path / 'endpoints.yaml'}: cannot be read: No such file or directory"]
    assert "Traceback" not in done.stderr
