"""The processes of a stack on this machine: each an `epp` command that ends with its parent and is told ready by its output.

`epp up` and the tests start the picker and the simulated servers through it. It knows how to start, wait and stop; what is
started is the caller's business.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections import deque
from typing import TYPE_CHECKING, Any, Self

from epp.gateway.process import tied

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

STOP_SECONDS = 10.0


class ChildFailedError(Exception):
    """A child ended before it was ready, or never became ready; the message holds the end of its output."""


class Child:
    """A running `epp` command. Each line of its output becomes an entry: a JSON log line as it is, other text as `event`."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, heard: Callable[[str, dict[str, Any]], None]) -> None:
        """Take the started `process`; call `heard(name, entry)` for each line."""
        self.name = name
        self.process = process
        self.entries: deque[dict[str, Any]] = deque(maxlen=1000)
        self._heard = heard
        self._news = asyncio.Event()
        self._reader = asyncio.create_task(self._read(), name=f"output of {name}")

    @classmethod
    async def start(
        cls, name: str, arguments: Sequence[str], *, heard: Callable[[str, dict[str, Any]], None] = lambda *_: None
    ) -> Self:
        """Start `epp ARGUMENTS…` with this Python."""
        process = await asyncio.create_subprocess_exec(
            *tied([sys.executable, "-m", "epp", *arguments]),
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C in a terminal is the parent's to handle, in order
            env={**os.environ, "PYTHONUNBUFFERED": "1"}, limit=1 << 20,
        )  # fmt: skip
        return cls(name, process, heard)

    async def _read(self) -> None:
        stream = self.process.stdout
        assert stream is not None  # noqa: S101 - asked for above
        while line := await stream.readline():
            text = line.decode(errors="replace").rstrip()
            try:
                entry = json.loads(text)
            except ValueError:
                entry = text
            if not isinstance(entry, dict):
                entry = {"event": text}
            self.entries.append(entry)
            self._heard(self.name, entry)
            self._news.set()
        self._news.set()

    async def says(self, event: str, *, count: int = 1, seconds: float = 30.0) -> list[dict[str, Any]]:
        """Wait for `count` entries whose event contains `event`; raise `ChildFailedError` when it ends or takes too long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while True:
                    self._news.clear()
                    found = [entry for entry in self.entries if event in str(entry.get("event"))]
                    if len(found) >= count:
                        return found
                    if self._reader.done():
                        break
                    await self._news.wait()
        ended = self._reader.done()
        state = f"ended with code {await self.process.wait()}" if ended else f"did not say {event!r} within {seconds:g} s"
        tail = "\n".join(str(entry.get("exception") or entry.get("error") or entry.get("event")) for entry in self.entries)
        message = f"{self.name} {state}:\n{tail[-2000:]}"
        raise ChildFailedError(message)

    async def stop(self, sign: int = signal.SIGTERM) -> int:
        """Send `sign`, wait for the end (killing after a while) and give the exit code."""
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(sign)
            try:
                async with asyncio.timeout(STOP_SECONDS):
                    await self.process.wait()
            except TimeoutError:
                self.process.kill()
        code = await self.process.wait()
        await self._reader
        return code

    async def __aenter__(self) -> Self:
        """Run for a block."""
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Stop at its end."""
        await self.stop()
