r"""A Prometheus page → `Signals`. Pure: bytes in, values out; it does not know where the page came from.

One regular expression over the bytes finds the lines of the few wanted families (all engines' names at once, written as
a trie so that a foreign line fails on its first bytes); only those lines are read. What is decided here:

- Which engine a page is: as told, else the default engine if the page has any of its core metrics, else the engine
  with most core metrics on the page.
- Several series of one signal (`engine="0"`, `engine="1"`, several models on one port) are one endpoint's: waiting and
  running add up, of KV usage the fullest counts, of blocks the sum. LoRA names come from the newest sample of each
  engine, united; an engine that reports LoRA only once an adapter is loaded has none when the page shows none.
- Numbers that are not finite, or negative where that is nonsense, are as if absent. KV usage above 1 stays as it is:
  nothing tells 1.3 % from 130 %, and scoring clamps.
- A line that cannot be read is skipped; what the others say is kept.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice, takewhile
from typing import NamedTuple, TypeAlias

from epp.endpoints.pool import Signals
from epp.scrape.engines import Engine, MetricSpec, unescape

# What is read of one page, at most: one of millions of samples must not hold the event loop.
MAX_SAMPLES = 10_000
MAX_LINE = 1 << 16

_SAMPLE = re.compile(
    rb'(?:\{((?:[^"}]++|"(?:[^"\\]++|\\.)*+")*+)\})?'  # labels: a brace inside quotes closes nothing
    rb"[ \t]*([^ \t\r]+)"  # value
    rb"(?:[ \t]+([-+0-9.eE]+))?"  # timestamp
)
_LABEL = re.compile(rb'([a-zA-Z_][a-zA-Z0-9_]*)[ \t]*=[ \t]*"((?:[^"\\]++|\\.)*+)"')

Families: TypeAlias = Mapping[str, Sequence[bytes]]  # metric name → the rest of each of its lines


class Sample(NamedTuple):
    """One line of a page, without its name."""

    labels: Mapping[str, str]
    value: float
    timestamp: float


@dataclass(frozen=True, slots=True)
class Reading:
    """What a page said, and which engine it was read as."""

    engine: str
    signals: Signals


def _trie(names: Sequence[bytes]) -> bytes:
    if len(names) == 1:
        return re.escape(names[0])
    pairs = zip(names[0], names[-1], strict=False)  # sorted: what first and last share, all share
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    by_next: dict[bytes, list[bytes]] = {}
    for name in names:
        by_next.setdefault(name[shared : shared + 1], []).append(name[shared:])
    return re.escape(names[0][:shared]) + b"(?:" + b"|".join(_trie(tails) for tails in by_next.values()) + b")"


class PageReader:
    """Reads pages of the given engines; build it once, it holds the compiled expression."""

    def __init__(self, engines: Iterable[Engine], default: str) -> None:
        """Know `engines` (earlier ones win ties); `default` names the one that is tried first."""
        known = {engine.name: engine for engine in engines}
        self._engines = {default: known[default], **known}
        names = sorted({name.encode() for engine in known.values() for name in engine.names})
        self._first = self._lines = re.compile(rb"(?!)")
        if names:
            wanted = rb"(" + _trie(names) + rb")([{ \t][^\n]*)"
            self._first, self._lines = re.compile(wanted), re.compile(rb"\n" + wanted)

    def read(self, page: bytes, engine: str | None = None) -> Reading | None:
        """Read `page` as `engine` (None or an unknown one: recognise it); None when it has nothing that is wanted."""
        families = self._families(page)
        chosen = self._engines.get(engine or "") or self._recognise(families)
        signals = _signals(chosen, families)
        return None if signals is None else Reading(chosen.name, signals)

    def _families(self, page: bytes) -> Families:
        families: dict[str, list[bytes]] = {}
        first = self._first.match(page)
        lines = islice(self._lines.finditer(page), MAX_SAMPLES)
        for line in chain([first], lines) if first else lines:
            if len(line[2]) <= MAX_LINE:
                families.setdefault(line[1].decode(), []).append(line[2])
        return families

    def _recognise(self, families: Families) -> Engine:
        def found(engine: Engine) -> int:
            return sum(any(spec.name in families for spec in alternatives) for alternatives in engine.core)

        default = next(iter(self._engines.values()))
        return default if found(default) else max(self._engines.values(), key=found)


def _signals(engine: Engine, families: Families) -> Signals | None:
    block_size, num_blocks = _cache(engine, families)
    signals = Signals(
        waiting=_total(families, engine.waiting),
        running=_total(families, engine.running),
        kv_usage=_peak(families, engine.kv_usage),
        block_size=block_size,
        num_blocks=num_blocks,
        custom=_custom(engine, families),
    )
    lora = _first_found(families, engine.lora)
    if lora:
        _adapters(signals, lora)
    elif signals == Signals():
        return None
    elif engine.lora:
        signals.adapters = signals.waiting_adapters = frozenset()
    return signals


def _samples(families: Families, spec: MetricSpec) -> Iterator[Sample]:
    for line in families.get(spec.name, ()):
        sample = _sample(line)
        if sample is not None and all(sample.labels.get(name, "") == value for name, value in spec.labels.items()):
            yield sample


def _sample(line: bytes) -> Sample | None:
    found = _SAMPLE.match(line)
    if found is None:
        return None
    try:
        value, timestamp = float(found[2]), float(found[3] or 0)
    except ValueError:
        return None
    if not math.isfinite(value):
        return None
    labels = {
        name.decode(): unescape(text.decode(errors="replace")) for name, text in _LABEL.findall(found[1] or b"")
    }  # fmt: skip
    return Sample(labels, value, timestamp)


def _first_found(families: Families, alternatives: Sequence[MetricSpec]) -> list[Sample]:
    return next((found for spec in alternatives if (found := list(_samples(families, spec)))), [])


def _total(families: Families, alternatives: Sequence[MetricSpec]) -> float | None:
    values = [sample.value for sample in _first_found(families, alternatives) if sample.value >= 0]
    return math.fsum(values) if values else None


def _peak(families: Families, alternatives: Sequence[MetricSpec]) -> float | None:
    return max((sample.value for sample in _first_found(families, alternatives) if sample.value >= 0), default=None)


def _cache(engine: Engine, families: Families) -> tuple[float | None, float | None]:
    info = _first_found(families, engine.cache_info)
    sizes = [size for sample in info if (size := _positive(sample.labels.get(engine.block_size_label)))]
    counts = [count for sample in info if (count := _positive(sample.labels.get(engine.num_blocks_label)))]
    size = max(sizes) if sizes else _peak(families, engine.block_size)
    count = math.fsum(counts) if counts else _total(families, engine.num_blocks)
    return size or None, count or None


def _custom(engine: Engine, families: Families) -> dict[str, float]:
    """Take the newest sample by timestamp, the first of equals: a spec's labels should single out one series."""
    newest: dict[str, float] = {}
    for key, spec in engine.custom.items():
        found = list(_samples(families, spec))
        if found:
            newest[key] = max(found, key=lambda sample: sample.timestamp).value
    return newest


def _adapters(signals: Signals, samples: Sequence[Sample]) -> None:
    """Take LoRA names: each permutation of names is a series of its own, and its value says when it was true.

    `lora_max` is the largest of the engines', not their sum: in the long run each of them holds the same adapters.
    """
    newest: dict[str, Sample] = {}
    for sample in samples:
        engine = sample.labels.get("engine", "")
        if engine not in newest or sample.value >= newest[engine].value:
            newest[engine] = sample
    current = [sample.labels for sample in newest.values()]
    signals.adapters = frozenset(name for labels in current for name in _names(labels.get("running_lora_adapters", "")))
    signals.waiting_adapters = frozenset(name for labels in current for name in _names(labels.get("waiting_lora_adapters", "")))
    slots = [count for labels in current if (count := _positive(labels.get("max_lora"))) is not None]
    signals.lora_max = max(slots, default=None)


def _names(text: str) -> list[str]:
    return [name for part in text.split(",") if (name := part.strip())]


def _positive(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) and number > 0 else None
