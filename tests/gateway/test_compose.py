from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer

from epp.cli.main import build
from epp.gateway.config import render
from epp.gateway.process import find_envoy, run_envoy, validate
from epp.gateway.rendered import wirings
from epp.gateway.wiring import HostPort, Wiring
from tests.gateway.compose import ROOT, document, native, services

HOSTS = {"envoy": "127.0.0.2", "epp": "127.0.0.3", "sim-1": "127.0.0.4", "sim-2": "127.0.0.5", "sim-3": "127.0.0.6"}


def test_the_services_and_their_networks() -> None:
    """Envoy, the picker and three model servers; only Envoy and the picker's metrics can be reached from outside."""
    compose = document()
    assert set(compose["services"]) == HOSTS.keys()
    assert compose["networks"]["servers"] == {"internal": True}
    for name, service in compose["services"].items():
        assert ("ports" in service) == ("clients" in service["networks"]) == (name in {"envoy", "epp"})
        assert "servers" in service["networks"]
        assert service["healthcheck"]["test"][0] == "CMD"
        assert set(service.get("depends_on", ())) <= HOSTS.keys()
    assert [service for service in compose["services"].values() if "build" in service] == [compose["services"]["epp"]]


@pytest.mark.parametrize("name", ["epp", "sim-1", "sim-2", "sim-3"])
def test_the_commands_are_ours(name: str) -> None:
    """Each command names a command of this version with options it knows."""
    program, command, *options = services()[name].command
    assert program == "epp"
    group = typer.main.get_command(build(command))
    found: Any = group.commands[command]  # type: ignore[attr-defined]
    found.make_context(command, options)


def test_envoy_mounts_a_kept_configuration() -> None:
    """Envoy runs one of the files in envoy/, whose picker is the service `epp`, and listens on the port that is published."""
    envoy = services()["envoy"]
    (kept,) = envoy.mounts.values()
    assert kept.resolve().parent == ROOT / "envoy"
    wiring = wirings()[kept.name]
    assert wiring.picker == HostPort("epp", 9002)
    assert envoy.definition["ports"] == [f"8080:{wiring.listen.port}"]
    assert "--secure-serving=false" in services()["epp"].command
    assert wiring.picker_tls is None


def test_the_same_commands_without_containers(tmp_path: Path) -> None:
    """On loopback addresses the commands and the configuration name each other, and Envoy accepts the configuration."""
    commands = native(HOSTS, tmp_path)
    assert commands["sim-2"] == ["epp", "simulate", "--host", "127.0.0.5", "--port", "8000", "--name", "sim-2"]
    assert commands["epp"][:3] == ["epp", "serve", "--bind-address=127.0.0.3"]
    assert commands["epp"][-1] == "--endpoints=http://127.0.0.4:8000,http://127.0.0.5:8000,http://127.0.0.6:8000"
    config = tmp_path / "envoy-held-open.yaml"
    assert str(config) in commands["envoy"]
    text = config.read_text()
    for place in ("authority: 127.0.0.3:9002", "address: 127.0.0.3\n", "address: 127.0.0.2\n", "cluster: epp\n"):
        assert place in text
    validate(config)


def test_envoys_options_are_known(tmp_path: Path) -> None:
    """The options Envoy is started with in the container are options of a real Envoy."""
    program, *options = native(HOSTS, tmp_path)["envoy"]
    assert program == "envoy"
    command = [str(find_envoy()), *options, "--mode", "validate", "--disable-hot-restart"]
    assert subprocess.run(command, check=False, capture_output=True).returncode == 0


async def test_envoys_health_check_works(tmp_path: Path) -> None:
    """The check in bash tells an Envoy that is up from none."""
    kind, *check = services()["envoy"].definition["healthcheck"]["test"]
    assert kind == "CMD"
    nowhere = HostPort("127.0.0.1", 0)
    wiring = Wiring(listen=nowhere, admin=nowhere, picker=HostPort("127.0.0.1", 1))

    async def healthy(port: int) -> bool:
        process = await asyncio.create_subprocess_exec(
            *(word.replace("9901", str(port)) for word in check), stderr=subprocess.DEVNULL
        )
        return await process.wait() == 0

    async with run_envoy(render(wiring), log_path=tmp_path / "log", concurrency=1) as envoy:
        port = envoy.admin.port
        assert await healthy(port)
    assert not await healthy(port)


def test_the_image_needs_nothing_but_the_checkout() -> None:
    """Everything the Dockerfile copies exists, and it does not run as root."""
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    copied = [word for line in lines if line.startswith("COPY ") and "--from" not in line for word in line.split()[1:-1]]
    assert copied
    assert all((ROOT / name).exists() for name in copied)
    assert [line for line in lines if line.startswith("USER ")] == ["USER 65532:65532"]
