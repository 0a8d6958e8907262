"""`dns-discovery`: every A and AAAA address of a host name is an endpoint. A headless service is such a name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from pydantic import Field, field_validator, model_validator

from epp.api import Parameters
from epp.discovery.membership import Entry, Interval, Membership
from epp.discovery.resolve import Resolve, is_host_name, literal, lookup

if TYPE_CHECKING:
    from epp.discovery.membership import Update


class DnsParameters(Parameters):
    """Parameters of `dns-discovery`: `host` or `hosts`, the model servers' `port`, and labels for all of them."""

    host: str = Field(
        default="", description="Host name whose every A and AAAA address is an endpoint; `host`, `hosts` or both are given."
    )
    hosts: tuple[str, ...] = Field(default=(), description="Further host names, looked up alike.")
    port: int = Field(ge=1, le=65535, description="Port of the model servers, 1 to 65535, the same at every address.")
    interval: Interval = Field(default=5.0, description="Time between two look-ups, at least 100ms; a plain number is seconds.")
    labels: dict[str, str] = Field(default_factory=dict, description="Labels that every endpoint found here carries.")

    @field_validator("host", "hosts")
    @classmethod
    def _names(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        for host in (value,) if isinstance(value, str) else value:
            if host and literal(host) is None and not is_host_name(host):
                msg = f"{host!r} is not a host name; the port goes into `port`"
                raise ValueError(msg)
        return value

    @model_validator(mode="after")
    def _some(self) -> Self:
        if not self.host and not self.hosts:
            msg = "name a `host`, or several `hosts`"
            raise ValueError(msg)
        return self


class DnsDiscovery:
    """Asks DNS again and again. When it does not answer, the endpoints of the last answer stay."""

    def __init__(self, parameters: DnsParameters) -> None:
        """Take the names."""
        self._parameters = parameters

    async def run(self, update: Update, *, resolve: Resolve = lookup) -> None:
        """Tell `update` the addresses, first as soon as any name is resolved, then at each change."""
        given = self._parameters
        hosts = [host for host in (given.host, *given.hosts) if host]
        membership = Membership(update, interval=given.interval, resolve=resolve)
        membership.replace(Entry(host, given.port, name=host, labels=given.labels) for host in hosts)
        await membership.run()
