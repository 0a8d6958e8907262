from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from epp.config.watch import read_directory, watch_directory, watch_file
from epp.errors import ConfigError
from epp.telemetry import Telemetry


class Heard(Telemetry):
    """Keeps the reports of reloads."""

    def __init__(self) -> None:
        """Start with none."""
        self.reloads: list[tuple[str, bool]] = []

    def reload(self, what: str, *, ok: bool) -> None:
        """Keep it."""
        self.reloads.append((what, ok))


class Kept:
    """Keeps what a watch tells, and lets a test wait for it."""

    def __init__(self) -> None:
        """Start with nothing."""
        self.told: list[Any] = []
        self.refuse: str | None = None

    def changed(self, content: Any) -> None:
        """Keep the content, unless it is the one to refuse."""
        if self.refuse is not None and self.refuse in content:
            message = "not this"
            raise ConfigError(message)
        self.told.append(content)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for `condition`; the test's own timeout ends what never comes."""
    while not condition():  # noqa: ASYNC110 - what is waited for is a file system, not a task
        await asyncio.sleep(0.01)


@asynccontextmanager
async def running(watch: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run `watch` beside the block."""
    task = asyncio.create_task(watch)
    try:
        yield
        assert not task.done()
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_a_changed_file_is_told(tmp_path: Path) -> None:
    """Written in place and replaced by another; what is seen already is not told."""
    file, kept, heard = tmp_path / "a.yaml", Kept(), Heard()
    file.write_text("one")
    async with running(watch_file(file, kept.changed, what="adapters", telemetry=heard, seen="one", poll=30)):
        await asyncio.sleep(0.2)
        file.write_text("two")
        await until(lambda: kept.told == ["two"])
        (tmp_path / "new").write_text("three")
        (tmp_path / "new").replace(file)
        await until(lambda: kept.told == ["two", "three"])
    assert heard.reloads == [("adapters", True), ("adapters", True)]


async def test_a_swapped_symlink_is_told(tmp_path: Path) -> None:
    """As Kubernetes updates a mounted ConfigMap."""
    for name in ("v1", "v2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.yaml").write_text(name)
    (tmp_path / "..data").symlink_to("v1")
    (tmp_path / "a.yaml").symlink_to("..data/a.yaml")
    kept = Kept()
    async with running(watch_file(tmp_path / "a.yaml", kept.changed, what="a", telemetry=Telemetry(), poll=30)):
        await until(lambda: kept.told == ["v1"])
        await asyncio.sleep(0.2)
        (tmp_path / "..data_tmp").symlink_to("v2")
        (tmp_path / "..data_tmp").rename(tmp_path / "..data")
        await until(lambda: kept.told == ["v1", "v2"])


async def test_content_that_is_refused_is_counted_and_the_next_is_tried(tmp_path: Path) -> None:
    """The watch goes on; the same bad content is not tried again and again."""
    file, kept, heard = tmp_path / "a.yaml", Kept(), Heard()
    file.write_text("good")
    kept.refuse = "bad"
    async with running(watch_file(file, kept.changed, what="a", telemetry=heard, poll=0.05)):
        await until(lambda: kept.told == ["good"])
        file.write_text("bad")
        await until(lambda: heard.reloads == [("a", True), ("a", False)])
        await asyncio.sleep(0.3)
        file.write_text("better")
        await until(lambda: kept.told == ["good", "better"])
    assert heard.reloads == [("a", True), ("a", False), ("a", True)]


async def test_a_file_that_is_gone_is_counted_once_and_its_return_is_seen(tmp_path: Path) -> None:
    """Also when its directory goes with it, and when neither was there at first."""
    directory = tmp_path / "mount"
    file, kept, heard = directory / "a.yaml", Kept(), Heard()
    async with running(watch_file(file, kept.changed, what="a", telemetry=heard, poll=0.05)):
        await until(lambda: heard.reloads == [("a", False)])
        await asyncio.sleep(0.2)
        directory.mkdir()
        file.write_text("one")
        await until(lambda: kept.told == ["one"])
        file.unlink()
        directory.rmdir()
        await until(lambda: heard.reloads[-1] == ("a", False))
        directory.mkdir()
        file.write_text("two")
        await until(lambda: kept.told == ["one", "two"])
    assert heard.reloads.count(("a", True)) == 2


async def test_a_change_that_no_event_tells_is_found_by_looking(tmp_path: Path) -> None:
    """The target of a symlink into another directory changes without an event in this one."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "here").mkdir()
    target, kept = tmp_path / "elsewhere" / "a.yaml", Kept()
    target.write_text("one")
    (tmp_path / "here" / "a.yaml").symlink_to(target)
    async with running(watch_file(tmp_path / "here" / "a.yaml", kept.changed, what="a", telemetry=Telemetry(), poll=0.1)):
        await until(lambda: kept.told == ["one"])
        target.write_text("two")
        await until(lambda: kept.told == ["one", "two"])


async def test_the_files_of_a_directory_are_told_together(tmp_path: Path) -> None:
    """Those that match; a new one and a removed one are changes."""
    told: list[Mapping[str, str]] = []
    (tmp_path / "a.yaml").write_text("1")
    (tmp_path / "b.txt").write_text("no")
    (tmp_path / ".hidden.yaml").write_text("no")
    async with running(watch_directory(tmp_path, "*.yaml", told.append, what="d", telemetry=Telemetry(), poll=30)):
        await until(lambda: told == [{"a.yaml": "1"}])
        await asyncio.sleep(0.2)
        (tmp_path / "b.yaml").write_text("2")
        await until(lambda: told[-1] == {"a.yaml": "1", "b.yaml": "2"})
        (tmp_path / "a.yaml").unlink()
        await until(lambda: told[-1] == {"b.yaml": "2"})


def test_what_is_no_directory_is_refused(tmp_path: Path) -> None:
    """It is named."""
    with pytest.raises(ConfigError, match="nowhere: is no directory"):
        read_directory(tmp_path / "nowhere", "*.yaml")
