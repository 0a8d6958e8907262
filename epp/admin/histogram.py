"""Numbers that are cheap to change: counts and histograms, and how they are shown to prometheus_client when it asks.

An observation costs a bisection and two additions. All text is made at the scrape, from readings: copies taken in one go,
so that the text can be made elsewhere while counting goes on.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.utils import floatToGoString

PREFIX = "llm_d_epp_"


class Count:
    """A number that goes up, or up and down."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        """Start at 0."""
        self.value = 0


class Histogram:
    """How many observations fell into each bucket, and their sum."""

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        """Take the buckets' upper `bounds`, ascending, without infinity."""
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count `value`, which is a finite number."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.sum += value


@dataclass(frozen=True, slots=True)
class Family:
    """A metric as it is documented: `name` without prefix and without `_total`."""

    name: str
    help: str
    labels: tuple[str, ...] = ()
    kind: Literal["counter", "gauge", "histogram", "info"] = "counter"
    bounds: tuple[float, ...] = ()


Value = float | tuple[Sequence[int], float]  # a number, or a histogram's counts and sum
Sample = tuple[tuple[str, ...], Value]


@dataclass(slots=True)
class Reading:
    """The values of one family at one moment, by label values."""

    family: Family
    samples: list[Sample] = field(default_factory=list)

    def add(self, labels: tuple[str, ...], value: float | Count | Histogram) -> None:
        """Copy `value`."""
        if isinstance(value, Histogram):
            self.samples.append((labels, (value.counts.copy(), value.sum)))
        else:
            self.samples.append((labels, value.value if isinstance(value, Count) else value))


def shown(reading: Reading) -> Metric:
    """Give a reading in prometheus_client's form."""
    family = reading.family
    name = PREFIX + family.name
    match family.kind:
        case "histogram":
            return _histogram(name, reading)
        case "counter":
            metric: Metric = CounterMetricFamily(name, family.help, labels=family.labels)
        case "info":
            return InfoMetricFamily(
                (PREFIX + family.name).removesuffix("_info"),
                family.help,
                value=dict(zip(family.labels, reading.samples[0][0], strict=True)),
            )
        case _:
            metric = GaugeMetricFamily(name, family.help, labels=family.labels)
    suffix = "_total" if family.kind == "counter" else ""
    for labels, value in reading.samples:
        if not isinstance(value, tuple):
            metric.add_sample(name + suffix, dict(zip(family.labels, labels, strict=True)), value)
    return metric


def _histogram(name: str, reading: Reading) -> Metric:
    family = reading.family
    metric = HistogramMetricFamily(name, family.help, labels=family.labels)
    bounds = [*map(floatToGoString, family.bounds), "+Inf"]
    for labels, value in reading.samples:
        if isinstance(value, tuple):
            counts, total = value
            metric.add_metric(labels, list(zip(bounds, _running(counts), strict=True)), total)
    return metric


def _running(counts: Iterable[int]) -> Iterable[int]:
    """Sum up: a bucket holds all below its bound."""
    total = 0
    for count in counts:
        total += count
        yield total
