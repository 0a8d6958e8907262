from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from epp.config.options import RETIRED, ServeOptions, default_text, flags, settle, spelling, without_effect
from epp.errors import ConfigError

#: The reference's flags and defaults, as an operator writes them.
REFERENCE = {
    "--grpc-port": "9002", "--grpc-health-port": "9003", "--metrics-port": "9090", "--pool-name": "", "--pool-namespace": "",
    "--endpoint-selector": "", "--endpoint-target-ports": "", "--disable-endpoint-subset-filter": "false",
    "--emit-endpoint-scores": "false", "--config-file": "", "--config-text": "", "--refresh-metrics-interval": "50ms",
    "--refresh-prometheus-metrics-interval": "5s", "--metrics-staleness-threshold": "2s", "--drain-timeout": "30s",
    "--ha-enable-leader-election": "false", "--secure-serving": "true", "--cert-path": "", "--enable-cert-reload": "false",
    "--tls-min-version": "", "--tls-cipher-suites": "", "--metrics-client-ca-file": "", "--metrics-cert-dir": "", "-v": "2",
}  # fmt: skip


def test_the_references_flags_have_its_defaults() -> None:
    """So that an operator swaps the image and nothing else."""
    ours = {spelling(one.name): default_text(flag, one.default) for one, flag in flags()}
    assert {name: ours[name] for name in REFERENCE} == REFERENCE


def test_every_flag_of_the_reference_is_known() -> None:
    """Those whose default differs here have no effect, or say so."""
    ours = {spelling(one.name) for one, _ in flags()}
    assert ours >= {
        "--pool-group", "--allow-experimental-plugins", "--health-checking", "--grpc-max-recv-msg-size", "--enable-pprof",
        "--grpc-max-send-msg-size", "--metrics-endpoint-auth", "--enable-grpc-stream-metrics", "--tracing", "--zap-devel",
        "--zap-encoder", "--zap-log-level", "--zap-stacktrace-level", "--zap-time-encoding",
    }  # fmt: skip
    assert len(RETIRED) == 5
    assert not ours & {"--" + name for name in RETIRED}


def test_sizes_are_shown_short() -> None:
    """As they would be written."""
    assert {one.name: default_text(flag, one.default) for one, flag in flags()}["max_body_bytes"] == "64Mi"


def test_options_cannot_be_changed() -> None:
    """Whoever reads them later reads what was given."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        ServeOptions().grpc_port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"config_file": "a", "config_text": "b"}, "--config-file and --config-text exclude each other"),
        ({"pool_name": "a", "endpoint_selector": "b"}, "--pool-name and --endpoint-selector exclude"),
        ({"endpoints": "a", "endpoint_selector": "b"}, "exclude each other"),
        ({"metrics_client_ca_file": "a"}, "--metrics-client-ca-file needs --metrics-cert-dir"),
        ({"client_ca_path": "a", "secure_serving": False}, "--client-ca-path needs --secure-serving"),
        ({"refresh_metrics_interval": 0.0}, "--refresh-metrics-interval must be above 0"),
        ({"metrics_staleness_threshold": -1.0}, "must be above 0"),
        ({"max_body_bytes": 0}, "--max-body-bytes must be above 0"),
        ({"max_buffered_bytes": 0}, "--max-buffered-bytes must be above 0"),
        ({"drain_timeout": -1.0}, "must not be negative"),
        ({"metrics_port": 9002}, "--grpc-port and --metrics-port are both 9002"),
        ({"cert_path": "/nowhere"}, "--cert-path: /nowhere/tls.crt cannot be read"),
        ({"metrics_cert_dir": "/nowhere"}, "--metrics-cert-dir: /nowhere/tls.crt cannot be read"),
        ({"client_ca_path": "/nowhere.pem"}, "--client-ca-path: /nowhere.pem cannot be read"),
    ],
)
def test_what_cannot_be_is_refused(given: dict[str, Any], message: str) -> None:
    """With the flags as they are written."""
    with pytest.raises(ConfigError) as caught:
        settle(ServeOptions(**given))
    assert message in str(caught.value)


def test_port_zero_may_be_given_thrice() -> None:
    """Each takes a free port."""
    assert settle(ServeOptions(grpc_port=0, grpc_health_port=0, metrics_port=0))[1] == []


def test_certificate_files_that_are_there_are_accepted(tmp_path: Path) -> None:
    """Both of a directory."""
    for name in ("tls.crt", "tls.key", "ca.pem"):
        (tmp_path / name).write_text("x")
    given = ServeOptions(cert_path=str(tmp_path), metrics_cert_dir=str(tmp_path), client_ca_path=str(tmp_path / "ca.pem"))
    assert settle(given) == (given, [])


def test_what_is_unwise_is_said(tmp_path: Path) -> None:
    """And put right where the reference does."""
    for name in ("tls.crt", "tls.key"):
        (tmp_path / name).write_text("x")
    options, warnings = settle(ServeOptions(refresh_metrics_interval=0.01, enable_cert_reload=True))
    assert options.refresh_metrics_interval == 0.05
    assert len(warnings) == 2
    assert settle(ServeOptions(cert_path=str(tmp_path), secure_serving=False))[1]
    assert "--max-body-bytes" in settle(ServeOptions(max_body_bytes=2**31))[1][0]


def test_flags_without_effect_are_listed_when_they_ask_for_something() -> None:
    """A flag that asks for what is done anyway is not worth a line."""
    options = ServeOptions(
        tracing=True, enable_pprof=False, pool_group="g", tls_min_version="VersionTLS12", health_checking=False
    )
    given = ["tracing", "enable_pprof", "pool_group", "grpc_port", "tls_min_version"]
    assert without_effect(given, options) == ["--pool-group", "--tracing"]
    assert without_effect(["health_checking"], options) == ["--health-checking"]
    assert without_effect(["tls_min_version"], ServeOptions(tls_min_version="VersionTLS13")) == ["--tls-min-version"]
    assert without_effect([], ServeOptions()) == []
