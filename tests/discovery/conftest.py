"""A resolver that answers as told, and a discovery that runs beside the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeAlias

import pytest

from epp.api import EndpointSpec

Eventually: TypeAlias = Callable[[Callable[[], object]], Awaitable[None]]


class Zone:
    """DNS as the test wants it: host → addresses; a host that is missing cannot be resolved."""

    def __init__(self, **hosts: list[str]) -> None:
        """Know `hosts`."""
        self.hosts = dict(hosts)
        self.asked: list[str] = []

    async def __call__(self, host: str) -> Iterable[str]:
        """Look `host` up."""
        self.asked.append(host)
        await asyncio.sleep(0)
        if host not in self.hosts:
            message = f"no address for {host}"
            raise OSError(message)
        return self.hosts[host]


class Updates:
    """Every membership that was told, newest last."""

    def __init__(self) -> None:
        """Start with none."""
        self.all: list[list[EndpointSpec]] = []

    def __call__(self, specs: Iterable[EndpointSpec]) -> None:
        """Take a membership."""
        self.all.append(list(specs))

    @property
    def keys(self) -> list[str]:
        """The newest membership's endpoints."""
        return [spec.key for spec in self.all[-1]] if self.all else ["nothing yet"]


@asynccontextmanager
async def running(work: Awaitable[Any]) -> AsyncIterator[asyncio.Future[Any]]:
    """Run `work` for a block; it must not end by itself."""
    task = asyncio.ensure_future(work)
    try:
        yield task
        assert not task.done(), task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@pytest.fixture
def updates() -> Updates:
    """Give a record of what was told."""
    return Updates()


@pytest.fixture
def eventually() -> Eventually:
    """Give a function that waits until its condition holds, and fails when it never does."""

    async def wait(condition: Callable[[], object]) -> None:
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110 - the condition has no event
                await asyncio.sleep(0.005)

    return wait
