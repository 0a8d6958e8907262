from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from epp.cli import serve as command
from epp.config.options import ServeOptions, flags, spelling
from epp.errors import ConfigError


def parse(*arguments: str) -> ServeOptions:
    """Read a command line as `epp serve` does, without running anything."""
    found: list[ServeOptions] = []

    def keep(ctx: typer.Context, **given: Any) -> None:
        assert ctx.obj is not None
        found.append(ServeOptions(**given))

    keep.__signature__ = command.serve.__signature__  # type: ignore[attr-defined]
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(cls=command.COMMAND_CLASS)(keep)
    app(args=list(arguments), standalone_mode=False)
    return found[0]


def refused(*arguments: str) -> str:
    """Give what `epp serve` says to a command line that cannot be; the exit code must be 2."""
    done = subprocess.run(
        [sys.executable, "-m", "epp", "serve", *arguments], capture_output=True, text=True, check=False, timeout=60,
        env={"COLUMNS": "400", "PATH": "", "NO_COLOR": "1"},
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    return done.stderr


def test_nothing_given_is_the_table_of_options() -> None:
    """The defaults pass through the command line unchanged."""
    assert parse() == ServeOptions()


def test_the_references_command_line_is_read() -> None:
    """As a Deployment of the reference has it."""
    options = parse(
        "--pool-name=pool", "--pool-namespace", "default", "--pool-group=inference.networking.k8s.io", "--v=4",
        "--zap-encoder=json", "--config-file", "/config/c.yaml", "--grpc-port=9002", "--grpc-health-port", "9003",
        "--secure-serving=false", "--refresh-metrics-interval", "50ms", "--drain-timeout=1m30s", "--tracing=false",
        "--grpc-max-recv-msg-size=10MiB", "-metrics-port=9191", "--emit-endpoint-scores",
        "--endpoint-target-ports=8000,8001", "--enable-cert-reload", "true", "--ha-enable-leader-election=f",
    )  # fmt: skip
    assert options == ServeOptions(
        pool_name="pool", pool_namespace="default", v=4, zap_encoder="json", config_file="/config/c.yaml",
        secure_serving=False, drain_timeout=90.0, grpc_max_recv_msg_size=10 * 2**20, metrics_port=9191,
        emit_endpoint_scores=True, endpoint_target_ports=("8000", "8001"), enable_cert_reload=True,
    )  # fmt: skip


def test_every_option_can_be_given() -> None:
    """Each flag reaches its own field."""
    values = {"text": "x", "port": "0", "bool": "true", "int": "3", "duration": "7s", "size": "5Ki", "list": "a,b"}
    read = {"text": "x", "port": 0, "bool": True, "int": 3, "duration": 7.0, "size": 5120, "list": ("a", "b")}
    for one, flag in flags():
        value = flag.choices[-1] if flag.choices else values[flag.kind]
        expected = value if flag.choices else read[flag.kind]
        assert getattr(parse(f"{spelling(one.name)}={value}"), one.name) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--grpc-ort=1"], "No such option: --grpc-ort"),
        (["--lora-info-metric=x"], "engineConfigs[].loraSpec"),
        (["--secure-serving=maybe"], "'maybe' is neither true nor false"),
        (["--drain-timeout", "5"], "such as 50ms, 30s or 1m30s"),
        (["--max-body-bytes=lots"], "is not a quantity"),
        (["--metrics-port=99999"], "is no port: 0 to 65535"),
        (["--log-format=xml"], "'xml' is none of auto, text, json"),
        (["--zap-log-level=loud"], "is no log level"),
        (["--config-file=a", "--config-text=b"], "--config-file and --config-text exclude each other"),
        (["extra"], "extra"),
    ],
)
def test_a_command_line_that_cannot_be_is_refused_with_what_to_write(arguments: list[str], message: str) -> None:
    """Exit code 2, before anything runs."""
    assert message in refused(*arguments)


def run(*arguments: str) -> tuple[int, str]:
    """Run `epp serve` to its end; give exit code and stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "epp", "serve", *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    return done.returncode, done.stderr


def test_a_configuration_that_cannot_be_used_stops_the_start(tmp_path: Path) -> None:
    """With every error and its line, as text or as an entry of the log."""
    file = tmp_path / "c.yaml"
    file.write_text("apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\nplugins:\n- type: queue-scorrer\n")
    code, text = run("--config-file", str(file), "--endpoints", "http://127.0.0.1:1", "--log-format=text")
    assert code == 1
    assert f"error: {file}:4: plugins[0].type: unknown plugin type 'queue-scorrer'; did you mean 'queue-scorer'?" in text
    assert "Traceback" not in text
    code, text = run("--config-file", str(file), "--endpoints", "http://127.0.0.1:1", "--log-format=json")
    assert code == 1
    entry = json.loads(text.splitlines()[-1])
    assert (entry["event"], entry["level"]) == ("cannot start", "error")
    assert "did you mean 'queue-scorer'?" in entry["error"]


def test_without_endpoints_the_start_stops_with_what_to_give() -> None:
    """And flags without effect are listed once before."""
    code, text = run("--log-format=json", "--tracing=true", "--pool-group=g", "--tls-min-version=VersionTLS12")
    entries = [json.loads(line) for line in text.splitlines()]
    assert code == 1
    assert entries[0]["event"] == "accepted, without effect"
    assert entries[0]["flags"] == ["--pool-group", "--tracing"]
    assert "--endpoints" in entries[-1]["error"]
    assert "file-discovery" in entries[-1]["error"]


def test_errors_inside_groups_are_found() -> None:
    """Tasks of a group raise groups of groups."""
    inner = ExceptionGroup("b", [ConfigError("x"), OSError("y")])
    assert [str(error) for error in command._leaves(ExceptionGroup("a", [inner, ConfigError("z")]))] == ["x", "y", "z"]
