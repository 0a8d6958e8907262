"""What an operator chooses about the proxy: how it asks the picker, what happens without it, and who listens where.

Pure values with their checks; it knows no Envoy message. `config` turns a `Wiring` into an Envoy bootstrap.
"""

from __future__ import annotations

import enum
import ipaddress
import shlex
from dataclasses import dataclass, field

#: As a node's name: the host's, which each replica has of its own. Envoy must then be given it with `--service-node`.
HOSTNAME = "%HOSTNAME%"


class Mode(enum.StrEnum):
    """How much of an exchange the picker sees."""

    HELD = "held"  # the request, the response headers, and the end of the exchange
    RELEASED = "released"  # the request only; the stream closes once the request is routed
    DUPLEX = "duplex"  # every byte both ways, as the Gateway API Inference Extension does it
    BUFFERED = "buffered"  # as held, with the request body in one message


class Failure(enum.StrEnum):
    """What a request gets while no picker answers."""

    OPEN = "open"  # any ready model server
    CLOSE = "close"  # 503


@dataclass(frozen=True, slots=True)
class HostPort:
    """A place to listen on or to connect to. IPv6 addresses are kept without brackets; port 0 means any free port."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> HostPort:
        """Read `host:port`, `ip:port` or `[v6]:port`; raise ValueError saying which form is wanted."""
        host, colon, port = text.strip().rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        host = host.removeprefix("[").removesuffix("]") if bracketed else host
        if not (host and colon and port.isascii() and port.isdigit() and int(port) < 65536) or (":" in host) is not bracketed:
            msg = f"{text!r} is not HOST:PORT (write 10.0.0.1:9002, epp:9002 or [::1]:9002)"
            raise ValueError(msg)
        if bracketed:
            ipaddress.IPv6Address(host)
        return cls(host, int(port))

    @property
    def is_address(self) -> bool:
        """Whether the host is an IP literal, which needs no name resolution."""
        try:
            ipaddress.ip_address(self.host)
        except ValueError:
            return False
        return True

    def __str__(self) -> str:
        """Write it as `parse` reads it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class PickerTls:
    """TLS to the picker. Without `ca_file` any certificate is accepted: encrypted, but not proof against an impostor.

    With `ca_file` the certificate must be signed by it and carry `name` as a subject alternative name (DNS or IP);
    an empty `name` means the picker's host.
    """

    ca_file: str = ""
    name: str = ""

    @classmethod
    def parse(cls, text: str, name: str = "") -> PickerTls | None:
        """Read `off`, `unverified` or the path of a CA file; `name` only makes sense with the latter."""
        if text in {"off", "unverified"}:
            if name:
                msg = f"a name for the picker's certificate is only checked against a CA file, not with {text!r}"
                raise ValueError(msg)
            return None if text == "off" else cls()
        return cls(ca_file=text, name=name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wiring:
    """One proxy in front of one pool, with one picker address. Seconds and bytes throughout."""

    mode: Mode = Mode.HELD
    failure: Failure = Failure.OPEN
    listen: HostPort = field(default=HostPort("0.0.0.0", 8080))
    admin: HostPort = field(default=HostPort("127.0.0.1", 9901))
    picker: HostPort = field(default=HostPort("127.0.0.1", 9002))
    picker_tls: PickerTls | None = None
    node: str = "epp-gateway"  # names this proxy to the picker: two proxies of one picker should differ
    node_cluster: str = "epp"
    pool: str = "pool"  # the EDS service name, and the cluster's
    health_interval: float = 0.5  # of the picker; a picker that hangs is given up after at most this and the timeout
    health_timeout: float = 1.0
    message_timeout: float = 10.0  # how long response headers may wait for the picker; requests wait as long as they are queued
    idle_timeout: float = 3600.0  # a stream on which nothing moves: also a long prefill, also a queued request
    body_limit: int = 64 << 20  # what may stand in Envoy's buffers for one request or one JSON answer
    usage: bool = True  # read token usage from answers, unless the picker sees them itself (duplex)
    reveal_served: bool = False  # tell clients in a header which model server answered: for demonstrations and tests

    def __post_init__(self) -> None:
        """Refuse what Envoy would misread."""
        for name in ("health_interval", "health_timeout", "message_timeout", "idle_timeout", "body_limit"):
            if getattr(self, name) <= 0:
                msg = f"{name} must be greater than 0"
                raise ValueError(msg)
        if self.picker.port == 0:
            msg = "the picker's port cannot be 0: name the port it listens on"
            raise ValueError(msg)
        if not (self.node and self.node_cluster and self.pool):
            msg = "node, node cluster and pool need a name"
            raise ValueError(msg)
        if "%" in self.node and self.node != HOSTNAME:
            msg = f"the node's name cannot hold '%'; only {HOSTNAME} alone stands for the host's name"
            raise ValueError(msg)


def command_of(wiring: Wiring) -> str:
    """Give the `epp envoy` command that makes this wiring: mode and failure always, the rest where it is not the default."""
    default = Wiring()
    tls = wiring.picker_tls
    options = [
        ("--listen", wiring.listen, default.listen),
        ("--admin", wiring.admin, default.admin),
        ("--picker", wiring.picker, default.picker),
        ("--picker-tls", (tls.ca_file or "unverified") if tls else "off", "unverified"),
        ("--picker-name", tls.name if tls else "", ""),
        ("--node", wiring.node, default.node),
        ("--pool", wiring.pool, default.pool),
    ]
    words = ["epp", "envoy", "--mode", wiring.mode.value, "--failure", wiring.failure.value]
    for option, value, usual in options:
        if value != usual:
            words += [option, str(value)]
    if not wiring.usage:
        words.append("--no-usage")
    if wiring.reveal_served:
        words.append("--reveal-served")
    return shlex.join(words)
