"""What an endpoint is: the facts discovery gives (`EndpointSpec`) and the living thing in the pool (`Endpoint`)."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


def join_address(address: str, port: int) -> str:
    """Join an IP address and a port as Envoy writes them: `10.0.0.1:8000`, `[::1]:8000`."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def split_address(text: str) -> tuple[str, int | None]:
    """Split `ip:port`, `[v6]:port`, `ip` or a bare IPv6 address; the port is None when absent.

    The address comes back in canonical form (`::1`, not `0:0::1`). Raises ValueError on anything else.
    """
    text = text.strip()
    if text.startswith("["):
        address, _, rest = text[1:].partition("]")
        port = rest.removeprefix(":") if rest else ""
    elif text.count(":") == 1:
        address, _, port = text.partition(":")
    else:
        address, port = text, ""
    canonical = str(ipaddress.ip_address(address))
    if not port:
        return canonical, None
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        msg = f"not a port: {port!r}"
        raise ValueError(msg)
    return canonical, int(port)


@dataclass(frozen=True, slots=True)
class EndpointSpec:
    """One model server as discovery found it. `address` is an IP literal; `metrics_url` overrides the scrape target."""

    address: str
    port: int
    name: str = ""
    namespace: str = "default"
    labels: Mapping[str, str] = field(default_factory=dict)
    metrics_url: str | None = None

    def __post_init__(self) -> None:
        """Refuse what Envoy could not use; raise ValueError."""
        canonical = str(ipaddress.ip_address(self.address))
        if canonical != self.address:
            object.__setattr__(self, "address", canonical)
        if not isinstance(self.port, int) or not 0 < self.port < 65536:
            msg = f"not a port: {self.port!r}"
            raise ValueError(msg)

    @property
    def key(self) -> str:
        """The endpoint's identity and its name on the wire: `ip:port`, IPv6 in brackets."""
        return join_address(self.address, self.port)


class Endpoint:
    """One endpoint of the pool. Its numbers live in the pool's columns at `row`; -1 once it has left the pool.

    The load counters live here, not in the table, so that leases of an endpoint that left and came back stay true.
    """

    __slots__ = ("__weakref__", "adapters", "key", "leases", "row", "spec", "tokens", "waiting_adapters")

    def __init__(self, spec: EndpointSpec) -> None:
        """Make an endpoint outside any pool."""
        self.spec = spec
        self.key = spec.key
        self.row = -1
        self.adapters: frozenset[str] = frozenset()  # LoRA adapters active there, as last scraped
        self.waiting_adapters: frozenset[str] = frozenset()
        self.leases = 0  # requests in flight: live leases, counted from the choice to the end
        self.tokens = 0.0  # uncached prompt tokens of live leases whose first token has not come yet

    @property
    def labels(self) -> Mapping[str, str]:
        """The endpoint's labels."""
        return self.spec.labels

    def __repr__(self) -> str:
        """Show identity and load."""
        return f"<Endpoint {self.key} row={self.row} leases={self.leases} tokens={self.tokens:g}>"
