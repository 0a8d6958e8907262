from __future__ import annotations

import shlex

import pytest
import typer
from typer.testing import CliRunner

from epp.cli.envoy import envoy
from epp.gateway.config import render
from epp.gateway.rendered import wirings
from epp.gateway.wiring import HOSTNAME, Failure, HostPort, Mode, PickerTls, Wiring, command_of

WIRINGS = [
    *wirings().values(),
    Wiring(
        mode=Mode.BUFFERED,
        failure=Failure.CLOSE,
        listen=HostPort("::", 80),
        admin=HostPort("::1", 1),
        picker=HostPort("10.0.0.1", 9002),
        picker_tls=PickerTls("/my ca.pem", "epp.example"),
        node=HOSTNAME,
        pool="llama",
        usage=False,
        reveal_served=True,
    ),
    Wiring(picker_tls=PickerTls()),
]


def run(arguments: list[str]) -> tuple[int, str]:
    """Run the command as the shell would."""
    app = typer.Typer()
    app.command()(envoy)
    result = CliRunner().invoke(app, arguments)
    return result.exit_code, result.output


@pytest.mark.parametrize("wiring", WIRINGS, ids=command_of)
def test_the_command_prints_what_its_own_first_line_says(wiring: Wiring) -> None:
    """The command at the top of a configuration prints exactly that configuration."""
    assert run(shlex.split(command_of(wiring))[2:]) == (0, render(wiring))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--picker", "epp"], "HOST:PORT"),
        (["--picker", "epp:0"], "name the port"),
        (["--picker-tls", "off", "--picker-name", "epp"], "CA file"),
        (["--node", "%REQ(x)%"], "%HOSTNAME%"),
        (["--mode", "streamed"], "held"),
    ],
)
def test_wrong_options_are_explained(arguments: list[str], told: str) -> None:
    """A wrong option ends with code 2 and says what is wanted instead."""
    code, output = run(arguments)
    assert code == 2
    assert told in output
