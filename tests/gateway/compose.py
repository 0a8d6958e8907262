"""docker-compose.yml as the tests read it: which command each service runs, and the same without containers.

`native` puts each service on a loopback address of its own in place of its name, so that several servers can listen on the
same port as in their containers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Service:
    """One service: its command, and the files it mounts (inside → on the host)."""

    name: str
    command: list[str]
    mounts: Mapping[str, Path]
    definition: Mapping[str, Any]


def document() -> Any:
    """Give the whole file."""
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())


def services() -> dict[str, Service]:
    """Give the services by name."""
    found = {}
    for name, definition in document()["services"].items():
        mounts = {}
        for volume in definition.get("volumes", ()):
            outside, inside, *_ = volume.split(":")
            mounts[inside] = ROOT / outside
        found[name] = Service(name, list(definition["command"]), mounts, definition)
    return found


def native(hosts: Mapping[str, str], directory: Path) -> dict[str, list[str]]:
    """Give each service's command for this machine. `hosts` maps service names to loopback addresses.

    Names become addresses, in commands and in mounted files, which are copied to `directory`; `0.0.0.0` and `127.0.0.1`, which
    a container has to itself, become the service's own address.
    """
    return {service.name: _native(service, hosts, directory) for service in services().values()}


def _native(service: Service, hosts: Mapping[str, str], directory: Path) -> list[str]:
    names = "|".join(re.escape(name) for name in hosts)
    places = re.compile(rf"(?<![\w.-])(?:{names})(?=:\d)|(?<=address: )(?:{names})\b|\b0\.0\.0\.0\b|\b127\.0\.0\.1\b")

    def here(text: str) -> str:
        return places.sub(lambda found: hosts.get(found[0], hosts[service.name]), text)

    command = service.command
    for inside, outside in service.mounts.items():
        copy = directory / f"{service.name}-{outside.name}"
        copy.write_text(here(outside.read_text()))
        command = [str(copy) if word == inside else word for word in command]
    return [word if word.startswith(str(directory)) else here(word) for word in command]
