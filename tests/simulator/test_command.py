from __future__ import annotations

import inspect
import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import pytest

from epp.cli.simulate import _options, servers, simulate
from epp.simulator.options import SimulatorOptions

COMMAND = (sys.executable, "-c", "import typer; from epp.cli.simulate import simulate; typer.run(simulate)")


@contextmanager
def running(*arguments: str, lines: int = 1) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """Run the command until it has printed so many lines; stop it in the end."""
    with subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, [process.stdout.readline().strip() for _ in range(lines)]
        finally:
            process.kill()


def given(**arguments: Any) -> dict[str, Any]:
    """Give the command's arguments: its defaults, and these."""
    defaults = {name: parameter.default for name, parameter in inspect.signature(simulate).parameters.items()}
    assert arguments.keys() <= defaults.keys()
    return {**defaults, **arguments}


def test_the_command_s_defaults_are_the_options_own() -> None:
    """But for the port, and that nothing is recorded."""
    assert _options(given()) == SimulatorOptions(port=8000, record=0)


def test_every_option_can_be_given() -> None:
    """Each argument changes the options."""
    values: dict[str, Any] = {
        "host": "::1", "port": 1, "model": "m", "name": "n", "lora": ["a", "b"], "max_loras": 1, "block_size": 2, "num_blocks": 3,
        "max_num_seqs": 4, "max_num_batched_tokens": 5, "prefix_caching": False, "default_max_tokens": 6, "speed": 2.0,
        "step_base_ms": 1.0, "prefill_us": 1.0, "decode_us": 1.0, "context_us": 1.0, "ttft_ms": 7.0, "itl_ms": 8.0,
        "instant": True, "fail_rate": 0.1, "fixed_queue": 1.0, "fixed_running": 2.0, "fixed_kv": 0.3, "fixed_lora": ["c"],
        "metrics_padding": 9, "seed": 10,
    }  # fmt: skip
    assert values.keys() | {"count"} == given().keys()
    plain = _options(given())
    for name, value in values.items():
        assert _options(given(**{name: value})) != plain, name
    everything = _options(given(**values))
    for field in fields(SimulatorOptions):
        assert getattr(everything, field.name) != getattr(plain, field.name) or field.name == "record", field.name


def test_several_servers_get_ports_and_names_of_their_own() -> None:
    """Consecutive ports from a given one, any from 0."""
    fleet = servers(SimulatorOptions(port=9000, name="sim", seed=1), 3)
    assert [(one.port, one.name, one.seed) for one in fleet] == [(9000, "sim-1", 1), (9001, "sim-2", 2), (9002, "sim-3", 3)]
    assert [(one.port, one.name) for one in servers(SimulatorOptions(), 2)] == [(0, ""), (0, "")]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_until_told_to_stop(number: signal.Signals) -> None:
    """Each server's address is printed, they answer under their names, and a signal ends them with success."""
    with running("--port", "0", "--count", "2", "--name", "sim", "--model", "m", lines=2) as (process, lines):
        urls = [line.rpartition(" ")[2] for line in lines]
        assert len(set(urls)) == 2
        for index, url in enumerate(urls):
            with urllib.request.urlopen(f"{url}/v1/models", timeout=10) as response:  # noqa: S310 - our own server
                assert response.headers["x-simulated-server"] == f"sim-{index + 1}"
                assert json.load(response)["data"][0]["id"] == "m"
        process.send_signal(number)
        _, errors = process.communicate(timeout=20)
        assert (process.returncode, errors) == (0, "")


def test_instant_servers_run_on_the_command_s_event_loop() -> None:
    """The fast protocol answers on the loop that the command uses, and stops as cleanly."""
    with running("--port", "0", "--instant") as (process, [line]):
        request = urllib.request.Request(line.rpartition(" ")[2] + "/v1/chat/completions", data=b"{}")  # noqa: S310 - ours
        with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310 - our own server
            assert json.load(response)["object"] == "chat.completion"
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=20)
        assert (process.returncode, errors) == (0, "")


def test_a_taken_port_is_a_clear_error() -> None:
    """It says what is wrong and which option to change."""
    with running("--port", "0") as (_, [line]):
        port = line.rpartition(":")[2]
        done = subprocess.run([*COMMAND, "--port", port], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert "choose another --host or --port" in done.stderr
    assert "Traceback" not in done.stderr


def test_nonsense_is_a_clear_error() -> None:
    """A usage error that names the option."""
    done = subprocess.run([*COMMAND, "--fail-rate", "2"], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert "fail_rate is 2.0" in done.stderr
