"""The options of `epp serve`: the reference's flags with its defaults, and our own. The command line is made from this table.

Each field is a flag: its name with dashes. Decides which values exclude each other and which flags have no effect here; what
the options set in motion is the app's.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import Field, dataclass, field, fields, replace
from typing import Any

from epp.config.duration import format_duration
from epp.errors import ConfigError

SERVING, ENDPOINTS, CONFIGURATION, METRICS, TLS, LOGS, COMPATIBILITY = (
    "Serving", "Endpoints", "Configuration", "Metrics", "TLS", "Logs", "Accepted for compatibility",
)  # fmt: skip

#: How the text of a flag is read; `epp.cli.serve` knows a parser for each.
TEXT, PORT, BOOL, INT, DURATION, SIZE, LIST = "text", "port", "bool", "int", "duration", "size", "list"

_UNITS = ((2**30, "Gi"), (2**20, "Mi"), (2**10, "Ki"))

#: The shortest interval between two scrapes of an endpoint, as in the reference.
MIN_REFRESH = 0.05
#: Flags of the reference that only stopped the start there; `name`: what describes the metric instead.
RETIRED = {
    "total-queued-requests-metric": "queuedRequestsSpec",
    "total-running-requests-metric": "runningRequestsSpec",
    "kv-cache-usage-percentage-metric": "kvUsageSpec",
    "lora-info-metric": "loraSpec",
    "cache-info-metric": "cacheInfoSpec",
}


@dataclass(frozen=True)
class Flag:
    """How a field is given on the command line. `fixed` is what we do whatever the flag says; None: the flag is heeded."""

    kind: str
    help: str
    group: str
    short: str = ""
    fixed: Any = None
    inert: bool = False  # a text that has no effect, whatever it says
    choices: tuple[str, ...] = ()


def _flag(default: Any, kind: str, group: str, help_text: str, **more: Any) -> Any:
    return field(default=default, metadata={"flag": Flag(kind, help_text, group, **more)})


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """What `epp serve` was told. Durations are seconds, sizes bytes, empty text means not given."""

    grpc_port: int = _flag(9002, PORT, SERVING, "Port for Envoy: ext_proc, access log, EDS, health. 0 takes a free one.")
    grpc_health_port: int = _flag(9003, PORT, SERVING, "Port for gRPC health checks.")
    metrics_port: int = _flag(9090, PORT, SERVING, "Port for /metrics, /healthz, /readyz and the state pages.")
    bind_address: str = _flag("::", TEXT, SERVING, "Address the ports are bound on; :: is every address, IPv4 ones too.")
    drain_timeout: float = _flag(30.0, DURATION, SERVING, "How long to serve on after SIGTERM, with readiness off.")
    grpc_max_recv_msg_size: int = _flag(0, SIZE, SERVING, "Largest gRPC message received, such as 10MiB. 0: no limit.")
    grpc_max_send_msg_size: int = _flag(0, SIZE, SERVING, "Largest gRPC message sent. 0: no limit.")
    max_body_bytes: int = _flag(64 * 1024 * 1024, SIZE, SERVING, "Largest request body; a larger one is answered with 413.")
    max_buffered_bytes: int = _flag(
        2**30, SIZE, SERVING, "Request bodies held at once, in all; one that finds no room is answered with 503."
    )
    emit_endpoint_scores: bool = _flag(False, BOOL, SERVING, "Add every endpoint's score to the dynamic metadata.")
    disable_endpoint_subset_filter: bool = _flag(False, BOOL, SERVING, "Ignore the subset that Envoy's metadata may name.")

    endpoints: str = _flag(
        "",
        TEXT,
        ENDPOINTS,
        "Model servers: http://h1:8000,http://h2:8000. Names are resolved, again and again; https is for scraping only.",
    )
    eds_cluster: str = _flag("pool", TEXT, ENDPOINTS, "Name of the pool's cluster in the EDS that is served to Envoy.")
    pool_name: str = _flag("", TEXT, ENDPOINTS, "Name of the pool, as the metrics show it.")
    pool_namespace: str = _flag("", TEXT, ENDPOINTS, "Namespace of the pool.")
    endpoint_selector: str = _flag(
        "", TEXT, ENDPOINTS, "Selector of pods; needs Kubernetes, which this build has no discovery for."
    )
    endpoint_target_ports: tuple[str, ...] = _flag((), LIST, ENDPOINTS, "Ports of the pods that --endpoint-selector selects.")

    config_file: str = _flag("", TEXT, CONFIGURATION, "The EndpointPickerConfig file. Without one the reference's defaults run.")
    config_text: str = _flag("", TEXT, CONFIGURATION, "The configuration itself, in place of a file.")
    adapters_file: str = _flag(
        "", TEXT, CONFIGURATION, "YAML file that says which LoRA adapters belong to which base model; watched."
    )

    refresh_metrics_interval: float = _flag(MIN_REFRESH, DURATION, METRICS, "Shortest time between two scrapes of an endpoint.")
    metrics_staleness_threshold: float = _flag(2.0, DURATION, METRICS, "Age from which an endpoint's signals count as unknown.")
    metrics_client_ca_file: str = _flag("", TEXT, METRICS, "CA (PEM) whose client certificates the metrics port demands.")
    metrics_cert_dir: str = _flag("", TEXT, METRICS, "Directory with tls.crt and tls.key: TLS on the metrics port.")

    secure_serving: bool = _flag(True, BOOL, TLS, "TLS on the gRPC port; self-signed unless --cert-path is given.")
    cert_path: str = _flag("", TEXT, TLS, "Directory with tls.crt and tls.key.")
    enable_cert_reload: bool = _flag(False, BOOL, TLS, "Read the files of --cert-path again when they change.")
    client_ca_path: str = _flag("", TEXT, TLS, "CA (PEM) whose client certificates the gRPC port demands.")

    v: int = _flag(2, INT, LOGS, "Verbosity of the log; 4 and more shows debugging.", short="-v")
    log_format: str = _flag("auto", TEXT, LOGS, "auto: text on a terminal, else json.", choices=("auto", "text", "json"))
    zap_log_level: str = _flag("", TEXT, LOGS, "debug, info, warn, error, or a verbosity; wins over -v.")
    zap_encoder: str = _flag("", TEXT, LOGS, "json or console; --log-format wins.", choices=("", "json", "console"))

    pool_group: str = _flag(
        "inference.networking.k8s.io", TEXT, COMPATIBILITY, "Without effect: resources come from files.", inert=True
    )
    allow_experimental_plugins: bool = _flag(True, BOOL, COMPATIBILITY, "Without effect: no type is held back.", fixed=True)
    refresh_prometheus_metrics_interval: float = _flag(
        5.0, DURATION, COMPATIBILITY, "Without effect: pool metrics are computed when they are read.", inert=True
    )
    ha_enable_leader_election: bool = _flag(False, BOOL, COMPATIBILITY, "Without effect: every replica serves.", fixed=False)
    health_checking: bool = _flag(True, BOOL, COMPATIBILITY, "Without effect: health is always served.", fixed=True)
    enable_grpc_stream_metrics: bool = _flag(True, BOOL, COMPATIBILITY, "Without effect: streams are always counted.", fixed=True)
    metrics_endpoint_auth: bool = _flag(
        False, BOOL, COMPATIBILITY, "Without effect: /metrics asks no Kubernetes API; use --metrics-client-ca-file.", fixed=False
    )
    enable_pprof: bool = _flag(False, BOOL, COMPATIBILITY, "Without effect: there is no Go profiler here.", fixed=False)
    tracing: bool = _flag(False, BOOL, COMPATIBILITY, "Without effect: no spans are emitted.", fixed=False)
    tls_min_version: str = _flag("", TEXT, COMPATIBILITY, "Only VersionTLS12 can be kept to.", fixed="VersionTLS12")
    tls_cipher_suites: tuple[str, ...] = _flag((), LIST, COMPATIBILITY, "Without effect: gRPC's own suites are used.", inert=True)
    zap_devel: bool = _flag(False, BOOL, COMPATIBILITY, "Without effect.", inert=True)
    zap_stacktrace_level: str = _flag("", TEXT, COMPATIBILITY, "Without effect: errors of ours have their traceback.", inert=True)
    zap_time_encoding: str = _flag("", TEXT, COMPATIBILITY, "Without effect: times are ISO 8601, in UTC.", inert=True)


def flags() -> Iterator[tuple[Field[Any], Flag]]:
    """Give every field with its flag, in the order of the help."""
    for one in fields(ServeOptions):
        yield one, one.metadata["flag"]


def spelling(name: str) -> str:
    """Give the flag of a field, as it is written: `--grpc-port`, `-v`."""
    return "-v" if name == "v" else "--" + name.replace("_", "-")


def default_text(flag: Flag, default: Any) -> str:
    """Write a flag's default as it would be given on the command line."""
    if flag.kind == DURATION:
        return format_duration(default)
    if flag.kind == SIZE:
        return next((f"{default // unit}{suffix}" for unit, suffix in _UNITS if default and default % unit == 0), str(default))
    if flag.kind == LIST:
        return ",".join(default)
    return str(default).lower() if flag.kind == BOOL else str(default)


def without_effect(given: Iterable[str], options: ServeOptions) -> list[str]:
    """List the flags among `given` (field names) that ask for something we do not do."""
    asked = set(given)
    return [
        spelling(one.name)
        for one, flag in flags()
        if one.name in asked and (flag.inert or (flag.fixed is not None and flag.fixed != getattr(options, one.name)))
    ]


def settle(options: ServeOptions) -> tuple[ServeOptions, list[str]]:
    """Give the options as they will be used, and what is unwise about them; raise `ConfigError` for what cannot be."""
    for one, other in _EXCLUSIVE:
        if getattr(options, one) and getattr(options, other):
            message = f"{spelling(one)} and {spelling(other)} exclude each other: give one of them"
            raise ConfigError(message)
    for one, needed in _NEEDING:
        if getattr(options, one) and not getattr(options, needed):
            message = f"{spelling(one)} needs {spelling(needed)}"
            raise ConfigError(message)
    _positive(options)
    _readable(options)
    warnings = []
    if options.refresh_metrics_interval < MIN_REFRESH:
        warnings.append("--refresh-metrics-interval is below 50ms; 50ms is used")
        options = replace(options, refresh_metrics_interval=MIN_REFRESH)
    if options.max_buffered_bytes < options.max_body_bytes:
        warnings.append("--max-buffered-bytes is below --max-body-bytes; no body larger than that is served")
    if options.enable_cert_reload and not options.cert_path:
        warnings.append("--enable-cert-reload has no effect without --cert-path")
    if options.cert_path and not options.secure_serving:
        warnings.append("--cert-path has no effect with --secure-serving=false")
    return options, warnings


_EXCLUSIVE = (("config_file", "config_text"), ("pool_name", "endpoint_selector"), ("endpoints", "endpoint_selector"))
_NEEDING = (("metrics_client_ca_file", "metrics_cert_dir"), ("client_ca_path", "secure_serving"))


def _positive(options: ServeOptions) -> None:
    for name in ("refresh_metrics_interval", "metrics_staleness_threshold", "max_body_bytes", "max_buffered_bytes"):
        if getattr(options, name) <= 0:
            message = f"{spelling(name)} must be above 0"
            raise ConfigError(message)
    if options.drain_timeout < 0:
        message = "--drain-timeout must not be negative"
        raise ConfigError(message)
    ports: Mapping[int, str] = {}
    for name in ("grpc_port", "grpc_health_port", "metrics_port"):
        port = getattr(options, name)
        if port and port in ports:
            message = f"{ports[port]} and {spelling(name)} are both {port}: give each a port of its own"
            raise ConfigError(message)
        ports = {**ports, port: spelling(name)}


def _readable(options: ServeOptions) -> None:
    for name in ("cert_path", "metrics_cert_dir"):
        for file in ("tls.crt", "tls.key") if getattr(options, name) else ():
            _file(name, pathlib.Path(getattr(options, name)) / file)
    for name in ("client_ca_path", "metrics_client_ca_file"):
        if path := getattr(options, name):
            _file(name, pathlib.Path(path))


def _file(name: str, path: pathlib.Path) -> None:
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        message = f"{spelling(name)}: {path} cannot be read: {error.strerror or error}"
        raise ConfigError(message) from None


def check_discovery(options: ServeOptions, configured: str) -> None:
    """Make sure that exactly one thing finds the endpoints; `configured` is the discovery plugin's name, or empty."""
    if options.endpoints and configured:
        message = f"--endpoints and dataLayer.discovery ({configured!r}) both say where the endpoints are: remove one"
        raise ConfigError(message)
    if options.endpoints or configured:
        return
    message = (
        "nothing says where the model servers are: give --endpoints http://host:8000,… or a configuration with a "
        "discovery plugin (plugins: [{type: file-discovery, parameters: {path: endpoints.yaml}}] and "
        "dataLayer: {discovery: {pluginRef: file-discovery}})"
    )
    if options.endpoint_selector or options.pool_name:
        asked = "--endpoint-selector" if options.endpoint_selector else "--pool-name"
        message += f"; {asked} alone would need Kubernetes, which this build has no discovery for"
    raise ConfigError(message)
