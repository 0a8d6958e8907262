"""The metrics page: readings of everything that counts, put into Prometheus' or OpenMetrics' text form.

Readings are taken on the event loop, in one go; making the text of a large page takes long and happens in a thread.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from epp.admin.histogram import Family, Reading, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from prometheus_client.core import Metric


class Source(Protocol):
    """Something that counts."""

    def read(self) -> Sequence[Reading]:
        """Copy all numbers; on the event loop, so quickly."""
        ...


class MetricsPage:
    """All sources, and what prometheus_client knows of the process."""

    def __init__(self, sources: Iterable[Source]) -> None:
        """Show `sources`; the registry is the page's own."""
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self._sources = tuple(sources)
        self._gauges: list[tuple[Family, Callable[[], float]]] = []

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Show also `name` (without prefix), whose value is asked for at each scrape."""
        self._gauges.append((Family(name, text, (), "gauge"), read))

    async def render(self, accept: str) -> tuple[bytes, str]:
        """Give the page in the form that `accept` prefers, and its content type."""
        encode, content_type = choose_encoder(accept)
        readings = [reading for source in self._sources for reading in source.read()]
        readings += [Reading(family, [((), float(read()))]) for family, read in self._gauges]
        return await asyncio.to_thread(encode, _Snapshot(readings, self.registry)), content_type


class _Snapshot(Collector):
    """Readings in the form in which prometheus_client asks for them, then the process."""

    def __init__(self, readings: Sequence[Reading], registry: CollectorRegistry) -> None:
        self._readings = readings
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        for reading in self._readings:
            yield shown(reading)
        yield from self._registry.collect()
