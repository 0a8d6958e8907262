"""The pool: the one owner of endpoint state, a table of numpy columns over the endpoints.

Everything runs on one event loop, so whoever reads the table between two awaits sees one consistent state.
Unknown is NaN, never 0. Rows are dense and move when membership changes; an `Endpoint` knows its row.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import numpy as np

from epp.endpoints.candidates import Candidates
from epp.endpoints.endpoint import Endpoint, EndpointSpec
from epp.endpoints.lease import Lease

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from epp.clock import Clock
    from epp.endpoints.candidates import Floats

#: Columns that scraping fills; all start unknown (NaN).
SCRAPED = ("waiting", "running", "kv_usage", "block_size", "num_blocks", "lora_max", "lora_active", "lora_waiting", "scraped_at")
#: Columns from the answers that passed: moving averages, unknown until the first answer.
OBSERVED = ("ttft",)
#: Columns the picker counts itself; they start at 0 because the picker knows them.
COUNTED = ("inflight_requests", "inflight_tokens", "unreachable")

TTFT_WEIGHT = 0.2  # of the newest answer in the moving average


@dataclass(slots=True)
class Signals:
    """What one scrape of an endpoint found. None means not found: the last value stays.

    `waiting` and `running` are requests, `kv_usage` a fraction 0..1, `block_size` tokens a cache block,
    `adapters`/`waiting_adapters` LoRA names, `custom` values by attribute key.
    """

    waiting: float | None = None
    running: float | None = None
    kv_usage: float | None = None
    block_size: float | None = None
    num_blocks: float | None = None
    lora_max: float | None = None
    adapters: frozenset[str] | None = None
    waiting_adapters: frozenset[str] | None = None
    custom: Mapping[str, float] = field(default_factory=dict)


class Pool:
    """The table of endpoints. Discovery replaces the membership, the scraper records signals, the router reserves."""

    def __init__(self, clock: Clock, *, stale_after: float = 2.0) -> None:
        """Start empty and not synced: until the first `update` the pool is not known, which is not the same as empty.

        Signals older than `stale_after` seconds count as unknown when an endpoint is to be chosen; the pool keeps them.
        """
        self.clock = clock
        self.stale_after = stale_after
        self.endpoints: tuple[Endpoint, ...] = ()  # replaced, never changed: plugins and decisions hold on to it
        self.version = 0  # grows with each change of membership, labels or reachability
        self.synced = False
        self.columns: dict[str, Floats] = {name: np.empty(0) for name in (*SCRAPED, *OBSERVED, *COUNTED)}
        self._by_key: dict[str, Endpoint] = {}
        self._departed: WeakValueDictionary[str, Endpoint] = WeakValueDictionary()  # kept alive by their leases
        self._running_adapters: dict[str, set[Endpoint]] = {}
        self._waiting_adapters: dict[str, set[Endpoint]] = {}
        self._watchers: list[Callable[[], None]] = []
        self._labels: dict[str, np.ndarray[tuple[int], np.dtype[np.object_]]] = {}

    def __len__(self) -> int:
        """Count the endpoints."""
        return len(self.endpoints)

    def get(self, key: str) -> Endpoint | None:
        """Find the endpoint named `ip:port` in the pool."""
        return self._by_key.get(key)

    def watch(self, changed: Callable[[], None]) -> None:
        """Call `changed` after each change of `version`; it must not raise or block."""
        self._watchers.append(changed)

    # --- membership -------------------------------------------------------------------------------------------------

    def update(self, specs: Iterable[EndpointSpec]) -> None:
        """Make `specs` the membership. Endpoints that stay keep their numbers; of equal keys the first wins."""
        wanted: dict[str, EndpointSpec] = {}
        for spec in specs:
            wanted.setdefault(spec.key, spec)
        first, self.synced = not self.synced, True
        changed = first or list(wanted) != [endpoint.key for endpoint in self.endpoints]
        for key, spec in wanted.items():
            endpoint = self._by_key.get(key)
            if endpoint is not None and endpoint.spec != spec:
                endpoint.spec, changed = spec, True
        if changed:
            self._rebuild(wanted)
            self._notify()

    def _rebuild(self, wanted: Mapping[str, EndpointSpec]) -> None:
        old = self._by_key
        for key, endpoint in old.items():
            if key not in wanted:
                self._set_adapters(endpoint, frozenset(), frozenset())
                self._departed[key] = endpoint
        self.endpoints = tuple(old.get(key) or self._arrive(spec) for key, spec in wanted.items())
        self._by_key = {endpoint.key: endpoint for endpoint in self.endpoints}
        rows = np.array([endpoint.row for endpoint in self.endpoints], dtype=np.intp)
        known = rows >= 0
        for name, column in self.columns.items():
            fresh = np.full(len(rows), 0.0 if name in COUNTED else np.nan)
            fresh[known] = column[rows[known]]
            self.columns[name] = fresh
        for endpoint in old.values():
            endpoint.row = -1
        for row, endpoint in enumerate(self.endpoints):
            endpoint.row = row
            self.count(endpoint, 0, 0.0)

    def _arrive(self, spec: EndpointSpec) -> Endpoint:
        endpoint = self._departed.pop(spec.key, None)
        if endpoint is None:
            return Endpoint(spec)
        endpoint.spec = spec
        return endpoint

    def _notify(self) -> None:
        self.version += 1
        self._labels.clear()
        for changed in self._watchers:
            changed()

    # --- signals ----------------------------------------------------------------------------------------------------

    def record(self, endpoint: Endpoint, signals: Signals) -> None:
        """Keep what a scrape of `endpoint` found, and that it was reached now."""
        row = endpoint.row
        if row < 0:
            return
        for name in ("waiting", "running", "kv_usage", "block_size", "num_blocks", "lora_max"):
            value: float | None = getattr(signals, name)
            if value is not None:
                self.columns[name][row] = value
        for key, value in signals.custom.items():
            self.attribute(key)[row] = value
        if signals.adapters is not None or signals.waiting_adapters is not None:
            active, queued = signals.adapters or frozenset(), signals.waiting_adapters or frozenset()
            self._set_adapters(endpoint, active, queued)
            self.columns["lora_active"][row] = len(active)
            self.columns["lora_waiting"][row] = len(queued)
        self.columns["scraped_at"][row] = self.clock()
        self.reachable(endpoint, reached=True)

    def reachable(self, endpoint: Endpoint, *, reached: bool) -> None:
        """Note whether `endpoint` answers connections. Unreachable ones are left out while others are reachable."""
        column, row = self.columns["unreachable"], endpoint.row
        if row >= 0 and bool(column[row]) == reached:
            column[row] = 0.0 if reached else 1.0
            self._notify()

    def observe_ttft(self, endpoint: Endpoint, seconds: float) -> None:
        """Fold the time to first token of an answer from `endpoint` into its moving average."""
        column, row = self.columns["ttft"], endpoint.row
        if row >= 0:
            last = column[row]
            column[row] = seconds if np.isnan(last) else last + TTFT_WEIGHT * (seconds - last)

    def attribute(self, key: str) -> Floats:
        """Give the column of a custom metric, NaN where unknown; made on first use. Built-in columns by name too."""
        column = self.columns.get(key)
        if column is None:
            column = self.columns[key] = np.full(len(self.endpoints), np.nan)
        return column

    def _set_adapters(self, endpoint: Endpoint, active: frozenset[str], queued: frozenset[str]) -> None:
        for index, before, names in (
            (self._running_adapters, endpoint.adapters, active),
            (self._waiting_adapters, endpoint.waiting_adapters, queued),
        ):
            for name in before - names:
                index[name].discard(endpoint)
                if not index[name]:
                    del index[name]
            for name in names - before:
                index.setdefault(name, set()).add(endpoint)
        endpoint.adapters, endpoint.waiting_adapters = active, queued

    def with_adapter(self, name: str, *, waiting: bool = False) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Tell for each row whether LoRA adapter `name` is active there (or, `waiting`, about to be loaded)."""
        mask = np.zeros(len(self.endpoints), dtype=np.bool_)
        for endpoint in (self._waiting_adapters if waiting else self._running_adapters).get(name, ()):
            mask[endpoint.row] = True
        return mask

    def label(self, key: str) -> np.ndarray[tuple[int], np.dtype[np.object_]]:
        """Give for each row the value of label `key`, None where absent."""
        column = self._labels.get(key)
        if column is None:
            column = np.empty(len(self.endpoints), dtype=object)
            column[:] = [endpoint.labels.get(key) for endpoint in self.endpoints]
            self._labels[key] = column
        return column

    # --- choosing and counting --------------------------------------------------------------------------------------

    def candidates(self, subset: Iterable[tuple[str, int | None]] | None = None) -> Candidates:
        """Give the endpoints a request may use: within `subset` (address, port or None) and reachable.

        When every endpoint of the subset is unreachable all of them stay: a wrong scraper must not stop traffic.
        """
        rows = np.arange(len(self.endpoints), dtype=np.intp)
        if subset is not None:
            wanted = set(subset)
            specs = (endpoint.spec for endpoint in self.endpoints)
            inside = [(spec.address, spec.port) in wanted or (spec.address, None) in wanted for spec in specs]
            rows = rows[np.array(inside, dtype=np.bool_)]
        unreachable = self.columns["unreachable"]
        if unreachable.any():
            up = rows[unreachable[rows] == 0.0]
            rows = up if len(up) else rows
        stale = self.columns["scraped_at"] < self.clock() - self.stale_after
        return Candidates(self, rows, stale if stale.any() else None)

    def reserve(self, endpoint: Endpoint, tokens: float = 0.0) -> Lease:
        """Count a request with `tokens` uncached prompt tokens on `endpoint`, until the lease ends."""
        return Lease(self, endpoint, tokens)

    def count(self, endpoint: Endpoint, requests: int, tokens: float) -> None:
        """Change an endpoint's load; only leases call this."""
        endpoint.leases += requests
        endpoint.tokens = max(0.0, endpoint.tokens + tokens) if endpoint.leases else 0.0
        if endpoint.row >= 0:
            self.columns["inflight_requests"][endpoint.row] = endpoint.leases
            self.columns["inflight_tokens"][endpoint.row] = endpoint.tokens
