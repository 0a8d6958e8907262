"""Entries, some of them host names, → endpoint specs, again and again. What every discovery here shares.

It decides when a membership is known (each entry's address is, or none more can be), that each address of a name is an
endpoint of its own, and that of two entries with the same address and port the first wins.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeAlias

import structlog
from pydantic import BeforeValidator, Field

from epp.api import EndpointSpec, join_address
from epp.config.duration import parse_duration
from epp.discovery.resolve import Names, Resolve, literal, lookup

log = structlog.get_logger(__name__)

Update: TypeAlias = Callable[[Iterable[EndpointSpec]], Any]

#: Seconds between look-ups, as a number or as Go writes durations (`5s`).
Interval = Annotated[
    float,
    BeforeValidator(lambda value: parse_duration(value) if isinstance(value, str) else value),
    Field(ge=0.1, json_schema_extra={"format": "duration"}),
]

RETRY = 1.0  # seconds until names that have no address at all are asked again


@dataclass(frozen=True, slots=True)
class Entry:
    """One model server as it was written down: `host` is an IP literal or a name."""

    host: str
    port: int
    name: str = ""
    namespace: str = "default"
    labels: Mapping[str, str] = field(default_factory=dict)
    scheme: str = "http"

    def at(self, address: str) -> EndpointSpec:
        """Give the endpoint at one of the entry's addresses."""
        metrics_url = None if self.scheme == "http" else f"{self.scheme}://{join_address(address, self.port)}"
        return EndpointSpec(address, self.port, self.name, self.namespace, self.labels, metrics_url)


class Membership:
    """Keeps `update` told of the endpoints that the current entries amount to."""

    def __init__(self, update: Update, *, interval: float, resolve: Resolve = lookup) -> None:
        """Tell `update`; look names up every `interval` seconds."""
        self._update = update
        self._interval = interval
        self._names = Names(resolve)
        self._entries: Sequence[Entry] = ()
        self._changed = asyncio.Event()
        self._told: list[EndpointSpec] | None = None
        self._duplicates: frozenset[str] = frozenset()

    def replace(self, entries: Iterable[Entry]) -> None:
        """Make `entries` the current ones; `run` takes them up."""
        self._entries = tuple(entries)
        self._changed.set()

    async def run(self) -> None:
        """Follow entries and DNS until cancelled; quiet until the first `replace`."""
        await self._changed.wait()
        while True:
            self._changed.clear()
            entries = self._entries
            hosts = {entry.host for entry in entries if literal(entry.host) is None}
            await self._names.refresh(hosts)
            if self._changed.is_set():
                continue  # newer entries came while names were looked up
            self._tell(entries)
            lost = any(self._names.addresses(host) is None for host in hosts)
            await self._pause(min(RETRY, self._interval) if lost else self._interval if hosts else None)

    async def _pause(self, seconds: float | None) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return

    def _tell(self, entries: Sequence[Entry]) -> None:
        specs: dict[str, EndpointSpec] = {}
        duplicates: set[str] = set()
        for entry in entries:
            address = literal(entry.host)
            for each in (address,) if address else self._names.addresses(entry.host) or ():
                spec = entry.at(each)
                if specs.setdefault(spec.key, spec) is not spec:
                    duplicates.add(spec.key)
        if duplicates - self._duplicates:
            log.warning("endpoint named more than once, the first counts", endpoints=sorted(duplicates))
        self._duplicates = frozenset(duplicates)
        found = list(specs.values())
        # Names without any address are not an empty pool: say nothing until one is known.
        if found != self._told and (found or not entries):
            self._told = found
            self._update(found)
