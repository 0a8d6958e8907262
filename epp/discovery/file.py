"""`file-discovery`: endpoints from a YAML or JSON file, followed as it changes.

It decides when the file is read again: on events of its directory (editors replace files, Kubernetes swaps a symlink
beside them), and every second where the file system tells nothing. A file that is broken, or gone, changes nothing: the
last good entries stay. Until the first good one the pool is not known; without `watchFile` that stops the start.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import structlog
from pydantic import Field
from watchfiles import awatch

from epp.api import Parameters, Services
from epp.discovery.entries import MAX_BYTES, Problem, read_entries
from epp.discovery.membership import Entry, Membership
from epp.discovery.resolve import Resolve, lookup
from epp.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from epp.discovery.membership import Update

log = structlog.get_logger(__name__)

POLL_MS = 1000
RESOLVE = 5.0  # seconds between look-ups of host names

Stamp: TypeAlias = tuple[int, ...] | None  # None: no such file


class FileParameters(Parameters):
    """Parameters of `file-discovery`. A relative `path` counts from the configuration file's directory."""

    path: str = Field(
        description="The endpoints file (see [Files](#files)); a relative path counts from the configuration file's directory."
    )
    watch_file: bool = Field(
        default=False,
        description="Whether the file is read again when it changes. If not, one that is missing or broken stops the start.",
    )


class FileDiscovery:
    """Follows one endpoints file."""

    def __init__(self, parameters: FileParameters, services: Services) -> None:
        """Take the path; nothing is opened before `run`."""
        self._path = services.directory / parameters.path
        self._watch = parameters.watch_file

    async def run(self, update: Update, *, resolve: Resolve = lookup) -> None:
        """Tell `update` the file's endpoints; raise ConfigError when it is unusable and not watched."""
        membership = Membership(update, interval=RESOLVE, resolve=resolve)
        if not self._watch:
            membership.replace(await self._load())
            await membership.run()
        async with asyncio.TaskGroup() as group:
            group.create_task(membership.run(), name="file-discovery addresses")
            await self._follow(membership)

    async def _follow(self, membership: Membership) -> None:
        seen: Stamp = ()
        async with aclosing(_ticks(self._path.parent)) as ticks:
            async for _ in ticks:
                stamp = await asyncio.to_thread(_stamp, self._path)
                if stamp != seen:
                    seen = stamp
                    await self._reload(membership)

    async def _reload(self, membership: Membership) -> None:
        try:
            entries = await self._load()
        except ConfigError as error:
            log.warning("endpoints file cannot be used, the last good one stays", error=str(error))
            return
        log.info("endpoints file read", file=str(self._path), endpoints=len(entries))
        membership.replace(entries)

    async def _load(self) -> list[Entry]:
        entries, problems = await asyncio.to_thread(_read, self._path)
        for problem in problems:
            log.warning(
                "endpoints file: bad entry", file=str(self._path), line=problem.line, entry=problem.entry, why=problem.why
            )
        return entries


def _read(path: Path) -> tuple[list[Entry], list[Problem]]:
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1)
    except OSError as error:
        message = f"cannot be read: {error.strerror or error}"
        raise ConfigError(message, file=str(path)) from error
    return read_entries(text, str(path))


def _stamp(path: Path) -> Stamp:
    """Tell one state of the file from the next; symlinks on the way are followed."""
    try:
        found = os.stat(path)  # noqa: PTH116 - pathlib hides nothing here
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


async def _ticks(directory: Path) -> AsyncGenerator[None]:
    """Tick at once, at each event in `directory`, and every second in any case."""
    yield
    while True:
        try:
            events = awatch(
                directory, watch_filter=None, recursive=False, debounce=400, rust_timeout=POLL_MS, yield_on_timeout=True
            )
            async with aclosing(events):
                async for _ in events:
                    yield
                    if not await asyncio.to_thread(directory.is_dir):
                        break  # the watch died with its directory
        except (OSError, RuntimeError) as error:  # no such directory, or no more watches to be had: poll
            log.debug("cannot watch, polling", directory=str(directory), error=str(error))
        await asyncio.sleep(POLL_MS / 1000)
        yield
