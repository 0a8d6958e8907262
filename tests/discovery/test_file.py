"""The endpoints file as it lives: replaced, swapped by a ConfigMap, broken, repaired, gone."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from epp.api import EndpointSpec, Services
from epp.discovery.file import FileDiscovery, FileParameters
from epp.errors import ConfigError

from .conftest import Zone, running

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Eventually, Updates


def text(*addresses: str) -> str:
    """Write an endpoints file."""
    return "endpoints:\n" + "".join(f'- {{name: e, address: "{address}", port: "8000"}}\n' for address in addresses)


def discovery(directory: Path, path: str = "pool.yaml", *, watch: bool = True) -> FileDiscovery:
    """Make the plugin as a configuration in `directory` would."""
    services = Services("file-discovery", lambda: 0.0, random.Random(1), directory)
    return FileDiscovery(FileParameters.model_validate({"path": path, "watchFile": watch}), services)


async def test_a_file_is_read_once_without_watching(tmp_path: Path, updates: Updates, eventually: Eventually) -> None:
    """A relative path counts from the configuration's directory; bad entries are logged with file, line and reason."""
    (tmp_path / "pool.yaml").write_text(text("10.0.0.1", "10.0.0.999", "fd00::1"))
    with capture_logs() as logs:
        async with running(discovery(tmp_path, watch=False).run(updates)):
            await eventually(lambda: updates.keys == ["10.0.0.1:8000", "[fd00::1]:8000"])
    assert updates.all[0][0] == EndpointSpec("10.0.0.1", 8000, name="e")
    assert [(entry["file"], entry["line"], entry["entry"]) for entry in logs] == [
        (str(tmp_path / "pool.yaml"), 3, "endpoints[1] 'e'")
    ]
    assert "10.0.0.999" in logs[0]["why"]


@pytest.mark.parametrize("content", [None, "nonsense", "endpoints: ["])
async def test_without_watching_an_unusable_file_stops_the_start(tmp_path: Path, updates: Updates, content: str | None) -> None:
    """A missing or broken file that nobody watches is an error naming it."""
    if content is not None:
        (tmp_path / "pool.yaml").write_text(content)
    with pytest.raises(ConfigError, match=r"pool\.yaml"):
        await discovery(tmp_path, watch=False).run(updates)
    assert updates.all == []


async def test_edits_and_replacements_are_followed(tmp_path: Path, updates: Updates, eventually: Eventually) -> None:
    """Writing in place and atomic renames take effect; a broken or missing file keeps the last good membership."""
    path = tmp_path / "pool.yaml"
    path.write_text(text("10.0.0.1"))
    with capture_logs() as logs:
        async with running(discovery(tmp_path).run(updates)):
            await eventually(lambda: updates.keys == ["10.0.0.1:8000"])
            path.write_text(text("10.0.0.1", "10.0.0.2"))
            await eventually(lambda: updates.keys == ["10.0.0.1:8000", "10.0.0.2:8000"])
            (tmp_path / "new").write_text(text("10.0.0.3"))
            (tmp_path / "new").rename(path)
            await eventually(lambda: updates.keys == ["10.0.0.3:8000"])
            path.write_text("endpoints: [")
            await eventually(lambda: any("cannot be used" in entry["event"] for entry in logs))
            path.unlink()
            await eventually(lambda: any("cannot be read" in entry.get("error", "") for entry in logs))
            assert updates.keys == ["10.0.0.3:8000"]
            path.write_text(text("10.0.0.4"))
            await eventually(lambda: updates.keys == ["10.0.0.4:8000"])
            path.write_text("endpoints: []")
            await eventually(lambda: updates.all[-1] == [])
    assert len(updates.all) == 5


async def test_a_config_map_s_symlink_swap_is_followed(tmp_path: Path, updates: Updates, eventually: Eventually) -> None:
    """Kubernetes replaces the directory that a symlink beside the file points to; the file itself never changes."""
    for version, address in (("..1", "10.0.0.1"), ("..2", "10.0.0.2")):
        (tmp_path / version).mkdir()
        (tmp_path / version / "pool.yaml").write_text(text(address))
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "pool.yaml").symlink_to("..data/pool.yaml")
    async with running(discovery(tmp_path).run(updates)):
        await eventually(lambda: updates.keys == ["10.0.0.1:8000"])
        (tmp_path / "..data_tmp").symlink_to("..2")
        (tmp_path / "..data_tmp").rename(tmp_path / "..data")
        await eventually(lambda: updates.keys == ["10.0.0.2:8000"])


async def test_a_link_into_another_directory_is_polled(tmp_path: Path, updates: Updates, eventually: Eventually) -> None:
    """Changes that the file's own directory does not see are noticed all the same, a second later."""
    (tmp_path / "far").mkdir()
    (tmp_path / "near").mkdir()
    (tmp_path / "far" / "real.yaml").write_text(text("10.0.0.1"))
    (tmp_path / "near" / "pool.yaml").symlink_to(tmp_path / "far" / "real.yaml")
    async with running(discovery(tmp_path, "near/pool.yaml").run(updates)):
        await eventually(lambda: updates.keys == ["10.0.0.1:8000"])
        (tmp_path / "far" / "real.yaml").write_text(text("10.0.0.1", "10.0.0.2"))
        await eventually(lambda: updates.keys == ["10.0.0.1:8000", "10.0.0.2:8000"])


async def test_a_watched_file_may_come_later(tmp_path: Path, updates: Updates, eventually: Eventually) -> None:
    """Nothing is told until the first good file, even if its directory does not exist yet or comes anew."""
    directory = tmp_path / "later"
    path = directory / "pool.yaml"
    with capture_logs() as logs:
        async with running(discovery(tmp_path, str(path)).run(updates)):
            await eventually(lambda: any("cannot be read" in entry.get("error", "") for entry in logs))
            assert updates.all == []
            directory.mkdir()
            path.write_text(text("10.0.0.1"))
            await eventually(lambda: updates.keys == ["10.0.0.1:8000"])
            directory.rename(tmp_path / "away")
            await eventually(lambda: sum("cannot be read" in entry.get("error", "") for entry in logs) == 2)
            directory.mkdir()
            path.write_text(text("10.0.0.2"))
            await eventually(lambda: updates.keys == ["10.0.0.2:8000"])


async def test_host_names_in_the_file_are_resolved(tmp_path: Path, updates: Updates, eventually: Eventually) -> None:
    """Each address of a name is an endpoint with the entry's name; new entries are resolved at once."""
    path = tmp_path / "pool.yaml"
    path.write_text(text("h1"))
    zone = Zone(h1=["10.0.0.1", "fd00::1"], h2=["10.0.0.2"])
    async with running(discovery(tmp_path).run(updates, resolve=zone)):
        await eventually(lambda: updates.keys == ["10.0.0.1:8000", "[fd00::1]:8000"])
        path.write_text(text("h2"))
        await eventually(lambda: updates.keys == ["10.0.0.2:8000"])
        stat = path.stat()
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
        await eventually(lambda: zone.asked.count("h2") >= 2)
    assert len(updates.all) == 2
