"""Host names → IP addresses, without blocking the event loop and without forgetting a good answer.

It decides that a failing DNS server changes nothing: the last good answer stays until there is a new one.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeAlias

import structlog

log = structlog.get_logger(__name__)

TIMEOUT = 3.0

Resolve: TypeAlias = Callable[[str], Awaitable[Iterable[str]]]  # host name → IP literals; raises OSError

_LABEL = re.compile(r"(?!-)[a-zA-Z0-9_-]{1,63}(?<!-)")


def literal(host: str) -> str | None:
    """Give the canonical form of an IP literal (`::1` for `0:0::1` and `[::1]`), None for anything else."""
    text = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None


def is_host_name(host: str) -> bool:
    """Tell whether `host` can be a DNS name. All-numeric last labels are mistyped IP addresses, not names."""
    labels = host.removesuffix(".").split(".")
    return len(host) <= 253 and all(_LABEL.fullmatch(label) for label in labels) and not labels[-1].isdigit()


async def lookup(host: str) -> Iterable[str]:
    """Ask the system's resolver for all A and AAAA addresses of `host`."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(TIMEOUT):
        found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return {str(address[0]) for *_, address in found}


class Names:
    """Looks host names up and remembers the last good answer of each."""

    def __init__(self, resolve: Resolve = lookup) -> None:
        """Ask `resolve`; know nothing yet."""
        self._resolve = resolve
        self._known: dict[str, tuple[str, ...]] = {}
        self._failing: set[str] = set()

    def addresses(self, host: str) -> tuple[str, ...] | None:
        """Give the last good answer, in a fixed order; None when there never was one."""
        return self._known.get(host)

    async def refresh(self, hosts: Iterable[str]) -> None:
        """Look all `hosts` up at the same time, and forget every other."""
        wanted = set(hosts)
        self._known = {host: known for host, known in self._known.items() if host in wanted}
        self._failing &= wanted
        await asyncio.gather(*(self._refresh(host) for host in wanted))

    async def _refresh(self, host: str) -> None:
        try:
            answer = await self._resolve(host)
        except (OSError, UnicodeError) as error:  # TimeoutError is an OSError
            if host not in self._failing:
                self._failing.add(host)
                kept = self._known.get(host)
                log.warning("host name cannot be resolved", host=host, error=str(error) or "timeout", kept=kept)
            return
        # Sorted by number: resolvers rotate their answers, which is no change. Link-local ones need a scope: not routable.
        found = (ipaddress.ip_address(address.partition("%")[0]) for address in answer)
        usable = sorted((address for address in found if not address.is_link_local), key=lambda ip: (ip.version, int(ip)))
        if usable:
            self._known[host] = tuple(str(address) for address in usable)
        if host in self._failing:
            self._failing.discard(host)
            log.info("host name is resolved again", host=host)
