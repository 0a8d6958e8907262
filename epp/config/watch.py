"""Follows a file, or the files of a directory, and tells their content whenever it has changed.

The directory is watched, not the file: editors replace files, and Kubernetes swaps a symlink beside them. Where the file
system tells nothing (a mount from elsewhere), looking again every few seconds finds the change. What a file means is the
caller's: content it refuses with a `ConfigError` is reported, and the caller keeps what it had.
"""

from __future__ import annotations

import asyncio
import os
import pathlib
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import TypeVar

import structlog
from watchfiles import awatch

from epp.config.load import read_text
from epp.errors import ConfigError
from epp.telemetry import Telemetry

log = structlog.get_logger(__name__)

POLL_SECONDS = 5.0
DEBOUNCE_MS = 200  # several events of one change come as one

T = TypeVar("T")


async def watch_file(
    path: str | pathlib.Path,
    changed: Callable[[str], None],
    *,
    what: str,
    telemetry: Telemetry,
    seen: str | None = None,
    poll: float = POLL_SECONDS,
) -> None:
    """Call `changed` with the text of `path` whenever it is no longer `seen`, until cancelled.

    `what` is how logs and metrics call it. A file that cannot be read, or that `changed` refuses with a `ConfigError`, is
    logged and counted once; the next change is tried again. Without `seen` the first content counts as a change.
    """
    file = pathlib.Path(path)
    await _follow(file.parent, lambda: read_text(file), changed, what=what, telemetry=telemetry, seen=seen, poll=poll)


async def watch_directory(
    path: str | pathlib.Path,
    pattern: str,
    changed: Callable[[Mapping[str, str]], None],
    *,
    what: str,
    telemetry: Telemetry,
    seen: Mapping[str, str] | None = None,
    poll: float = POLL_SECONDS,
) -> None:
    """Do as `watch_file` for all files of a directory whose name matches `pattern`: `changed` gets name → text."""
    directory = pathlib.Path(path)
    await _follow(
        directory, lambda: read_directory(directory, pattern), changed, what=what, telemetry=telemetry, seen=seen, poll=poll
    )


def read_directory(directory: pathlib.Path, pattern: str) -> Mapping[str, str]:
    """Read the files of `directory` that match `pattern`, hidden ones left out. Raises `ConfigError`."""
    if not directory.is_dir():
        message = "is no directory"
        raise ConfigError(message, file=str(directory))
    files = sorted(file for file in directory.glob(pattern) if file.is_file() and not file.name.startswith("."))
    return {file.name: read_text(file) for file in files}


async def _follow(
    directory: pathlib.Path,
    read: Callable[[], T],
    changed: Callable[[T], None],
    *,
    what: str,
    telemetry: Telemetry,
    seen: T | None,
    poll: float,
) -> None:
    failure = ""
    async with aclosing(_ticks(directory, poll)) as ticks:
        async for _ in ticks:
            try:
                content = await asyncio.to_thread(read)
            except ConfigError as error:  # may be read again at any time; say it once
                if str(error) != failure:
                    failure = str(error)
                    log.warning("cannot be read, the last good content stays", what=what, error=failure)
                    telemetry.reload(what, ok=False)
                continue
            failure = ""
            if content == seen:
                continue
            seen = content
            try:
                changed(content)
            except ConfigError as error:
                log.warning("cannot be used, the last good content stays", what=what, error=str(error))
                telemetry.reload(what, ok=False)
            else:
                log.info("read again", what=what)
                telemetry.reload(what, ok=True)


async def _ticks(directory: pathlib.Path, poll: float) -> AsyncGenerator[None, None]:
    """Give a moment to look again: at once, after each change in `directory`, and every `poll` seconds."""
    yield
    while True:
        if not await asyncio.to_thread(os.path.isdir, directory):
            await asyncio.sleep(poll)
            yield
            continue
        try:
            events = awatch(
                directory, watch_filter=None, recursive=False, debounce=DEBOUNCE_MS, step=50,
                rust_timeout=int(poll * 1000), yield_on_timeout=True,
            )  # fmt: skip
            async with aclosing(events):
                yield  # what changed before the watch began is not missed
                async for _ in events:
                    yield
                    if not await asyncio.to_thread(os.path.isdir, directory):
                        break  # the directory itself went; wait for a new one
        except (OSError, RuntimeError) as error:  # no inotify watches left, or the like: looking now and then still works
            log.warning("changes are looked for every few seconds only", directory=str(directory), error=str(error))
            while True:
                await asyncio.sleep(poll)
                yield
