"""`--endpoints`: model servers named on the command line, or in the configuration as `static-discovery`."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import structlog
from pydantic import Field, field_validator

from epp.api import Parameters, join_address
from epp.discovery.membership import Entry, Interval, Membership
from epp.discovery.resolve import Resolve, is_host_name, literal, lookup
from epp.errors import ConfigError

if TYPE_CHECKING:
    from epp.discovery.membership import Update

log = structlog.get_logger(__name__)

KEY = "--endpoints"
_PORTS = {"http": 80, "https": 443}


def parse_endpoints(text: str) -> tuple[Entry, ...]:
    """Read a comma list of `http://host:port`, `https://host:port`, `host:port`, `[v6]:port`; raise ConfigError."""
    entries = tuple(_entry(part.strip()) for part in text.split(",") if part.strip())
    if not entries:
        message = "names no endpoint; write for example http://10.0.0.1:8000,http://model-server:8000"
        raise ConfigError(message, key=KEY)
    return entries


def _entry(text: str) -> Entry:
    scheme, found, rest = text.rpartition("://")
    scheme = scheme.lower() if found else "http"
    if scheme not in _PORTS:
        raise _bad(text, f"unknown scheme {scheme!r}, use http or https")
    if not found and rest.count(":") > 1 and not rest.startswith("["):
        raise _bad(text, "an IPv6 address stands in brackets: [::1]:8000")
    try:
        parts = urlsplit(f"//{rest}")
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise _bad(text, str(error)) from error
    if parts.path.strip("/") or parts.query or parts.fragment or parts.username is not None:
        raise _bad(text, "give only scheme, host and port; requests keep their own path")
    if port is None and not found:
        raise _bad(text, f"the port is missing: {text}:8000")
    if port == 0:
        raise _bad(text, "port 0 cannot be connected to")
    address = literal(host)
    if address is None and not is_host_name(host):
        raise _bad(text, f"{host!r} is neither an IP address nor a host name")
    port = port or _PORTS[scheme]
    return Entry(address or host, port, name=join_address(address or host, port), scheme=scheme)


def _bad(text: str, why: str) -> ConfigError:
    return ConfigError(f"cannot use {text!r}: {why}", key=KEY)


class StaticParameters(Parameters):
    """Parameters of `static-discovery`."""

    endpoints: str = Field(
        description="Model servers, as a comma list or a list: `http://host:8000`, `host:8000`, `[::1]:8000`. `https://` is used "
        "for scraping only: the Envoy configuration of `epp envoy` speaks plaintext to model servers."
    )
    interval: Interval = Field(
        default=5.0, description="Time between two look-ups of host names, at least 100ms; a plain number is seconds."
    )

    @field_validator("endpoints", mode="before")
    @classmethod
    def _one_text(cls, value: object) -> object:
        return ",".join(map(str, value)) if isinstance(value, list | tuple) else value

    @field_validator("endpoints")
    @classmethod
    def _readable(cls, value: str) -> str:
        try:
            parse_endpoints(value)
        except ConfigError as error:
            raise ValueError(error.message) from error
        return value


class StaticDiscovery:
    """Endpoints that are listed once; host names among them are looked up again and again."""

    def __init__(self, parameters: StaticParameters) -> None:
        """Take the list, and say what https in it does not do."""
        self._entries = parse_endpoints(parameters.endpoints)
        self._interval = parameters.interval
        secure = [entry.name for entry in self._entries if entry.scheme == "https"]
        if secure:
            log.warning(
                "https is used for scraping only; the Envoy configuration of `epp envoy` speaks plaintext to model servers",
                endpoints=secure,
            )

    async def run(self, update: Update, *, resolve: Resolve = lookup) -> None:
        """Tell `update` the endpoints, and again when a name's addresses change."""
        membership = Membership(update, interval=self._interval, resolve=resolve)
        membership.replace(self._entries)
        await membership.run()
