"""Counts what the parts of the picker report, under the reference's metric names. Decides nothing for anybody.

Reports come from the one event loop, on the hot path: each is a look-up and a few additions. `read` copies all numbers in
one go, for whoever makes a page of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from epp.admin import families
from epp.admin.histogram import Count, Histogram, Reading
from epp.admin.labels import OTHER, Cells, Labels, Limit, clean
from epp.admin.requests import Requests, error_code
from epp.api import PrefixMatch, split_address
from epp.telemetry import RequestLabels, Telemetry

if TYPE_CHECKING:
    from epp.admin.histogram import Family
    from epp.api import Outcome, Pool

BYTES_A_TOKEN = 4  # the reference's estimate
METRICS_SOURCE = "metrics-data-source"


class PrometheusTelemetry(Telemetry):
    """The telemetry that is shown on `/metrics`."""

    def __init__(
        self,
        pool: Pool,
        *,
        commit: str = "",
        build_ref: str = "",
        prefix_plugin: tuple[str, str] = (PrefixMatch.default_producer, PrefixMatch.default_producer),
    ) -> None:
        """Name endpoints as `pool` does; `prefix_plugin` is the name and type of the producer that matches prefixes."""
        self._pool = pool
        self._info: Labels = (clean(commit), clean(build_ref))
        self._prefix: Labels = (clean(prefix_plugin[0]), clean(prefix_plugin[1]))
        self._requests = Requests()
        self._targets = Limit()
        self._rejected: Cells[Count] = Cells(Count, most=1000)
        self._finished: Cells[Count] = Cells(Count, most=100)
        self._processing = Histogram(families.PROCESSING_SECONDS.bounds)
        self._scheduling = Histogram(families.SCHEDULER_SECONDS.bounds)
        self._attempts: Cells[Count] = Cells(Count, name=self._attempt)
        pool.watch(self._attempts.forget_names)  # an address may have passed to another endpoint
        self._plugins: Cells[Histogram] = Cells(lambda: Histogram(families.PLUGIN_SECONDS.bounds), most=1000)
        self._plugin_failures: Cells[Count] = Cells(Count, most=1000)
        self._faults: Cells[Count] = Cells(Count, most=100)
        self._scrape_failures: Cells[Count] = Cells(Count, most=100)
        self._scrapes = Histogram(families.SCRAPE_SECONDS.bounds)
        self._prefix_ratio = Histogram(families.PREFIX_RATIO.bounds)
        self._prefix_bytes = Histogram(families.PREFIX_BYTES.bounds)
        self._prefix_size: int | None = None
        self._streams_open = 0
        self._streams: Cells[Count] = Cells(Count, most=100)
        self._stream_seconds = Histogram(families.STREAM_SECONDS.bounds)
        self._reloads: Cells[Count] = Cells(Count, most=1000)

    def pin_model(self, name: str) -> None:
        """Show the configured model `name` as itself, however many names clients invent."""
        self._requests.models.pin(name)
        self._targets.pin(name)

    # --- requests -------------------------------------------------------------------------------------------------------

    def request_received(self, labels: RequestLabels, size: int) -> None:
        """A request of `size` body bytes was read."""
        series = self._requests.at(labels)
        series.received += 1
        series.size.observe(size)

    def request_started(self, labels: RequestLabels) -> None:
        """The request was routed and now runs on a model server."""
        series = self._requests.at(labels)
        series.started += 1
        series.running += 1

    def request_ended(self, labels: RequestLabels) -> None:
        """The routed request no longer runs."""
        self._requests.at(labels).running -= 1

    def request_finished(self, labels: RequestLabels, outcome: Outcome, *, streaming: bool, prompt_tokens: int) -> None:
        """All that will be known of a routed request is known."""
        self._finished.at((outcome.cause,)).value += 1
        self._requests.at(labels).finish(outcome, streaming=streaming, prompt_tokens=prompt_tokens)

    def request_rejected(self, labels: RequestLabels, status: int, reason: str | None) -> None:
        """The picker answered the request itself."""
        self._rejected.at((str(status), reason or "")).value += 1
        self._requests.at(labels).error(error_code(status))

    def request_processed(self, seconds: float) -> None:
        """The picker held a request for `seconds`."""
        self._processing.observe(seconds)

    # --- scheduling -----------------------------------------------------------------------------------------------------

    def scheduled(self, target_model: str, endpoint: str, seconds: float) -> None:
        """The scheduler took `seconds` and chose `endpoint`, or nobody."""
        self._scheduling.observe(seconds)
        self._attempts.at((target_model, endpoint)).value += 1

    def _attempt(self, reported: Labels) -> Labels:
        target_model, key = reported
        model = self._targets.bound(target_model)
        if not key:
            return "failure", model, "", "", ""
        endpoint = self._pool.get(key)
        if endpoint is not None:
            spec = endpoint.spec
            return "success", model, clean(spec.name) or spec.address, clean(spec.namespace), str(spec.port)
        try:
            address, port = split_address(key)
        except ValueError:
            return "success", model, OTHER, "", ""
        return "success", model, address, "", str(port or "")

    def plugin_ran(self, point: str, kind: str, name: str, seconds: float) -> None:
        """A plugin's verb took `seconds`."""
        self._plugins.at((point, kind, name)).observe(seconds)

    def plugin_failed(self, point: str, kind: str, name: str) -> None:
        """A plugin raised or gave nonsense and was passed over."""
        self._plugin_failures.at((point, kind, name)).value += 1

    def internal_fault(self, stage: str) -> None:
        """The picker's own code failed in `stage`."""
        self._faults.at((stage,)).value += 1

    def prefix_matched(self, matched_tokens: int, total_tokens: int) -> None:
        """A prompt of `total_tokens` went to an endpoint that held `matched_tokens` of its prefix."""
        self._prefix_bytes.observe(matched_tokens * BYTES_A_TOKEN)
        if total_tokens > 0:
            self._prefix_ratio.observe(matched_tokens / total_tokens)

    def prefix_size(self, blocks: int) -> None:
        """The prefix index holds `blocks` (block, endpoint) pairs."""
        self._prefix_size = blocks

    # --- the picker itself ----------------------------------------------------------------------------------------------

    def scrape_failed(self, endpoint: str, cause: str) -> None:
        """A scrape failed; which endpoint's, its scrape age shows."""
        del endpoint
        self._scrape_failures.at((cause,)).value += 1

    def scraped(self, endpoint: str, seconds: float) -> None:
        """A scrape took `seconds`."""
        del endpoint
        self._scrapes.observe(seconds)

    def stream_opened(self) -> None:
        """An ext_proc stream began."""
        self._streams_open += 1

    def stream_closed(self, seconds: float, code: str) -> None:
        """An ext_proc stream ended with gRPC status `code`."""
        self._streams_open -= 1
        self._stream_seconds.observe(seconds)
        self._streams.at((code,)).value += 1

    def reload(self, what: str, *, ok: bool) -> None:
        """A watched file was read again."""
        self._reloads.at((what, "success" if ok else "failure")).value += 1

    # --- the page -------------------------------------------------------------------------------------------------------

    def read(self) -> list[Reading]:
        """Copy all numbers."""
        failed = sum(count.value for count in self._scrape_failures.cells.values())
        readings = [
            *self._requests.read(),
            _many(families.REJECTED, self._rejected),
            _many(families.FINISHED, self._finished),
            _one(families.PROCESSING_SECONDS, self._processing),
            _one(families.SCHEDULER_SECONDS, self._scheduling),
            _many(families.SCHEDULER_ATTEMPTS, self._attempts),
            _many(families.PLUGIN_SECONDS, self._plugins),
            _many(families.PLUGIN_FAILURES, self._plugin_failures),
            _many(families.INTERNAL_FAULTS, self._faults),
            _one(families.PREFIX_RATIO, self._prefix_ratio, self._prefix),
            _one(families.PREFIX_BYTES, self._prefix_bytes, self._prefix),
            _one(families.STREAMS_OPEN, self._streams_open),
            _many(families.STREAMS, self._streams),
            _one(families.STREAM_SECONDS, self._stream_seconds),
            _one(families.POLL_ERRORS, failed, (METRICS_SOURCE,)),
            _many(families.SCRAPE_FAILURES, self._scrape_failures),
            _one(families.SCRAPE_SECONDS, self._scrapes),
            _many(families.RELOADS, self._reloads),
            _one(families.INFO, 1, self._info),
        ]
        if self._prefix_size is not None:
            readings.append(_one(families.PREFIX_SIZE, self._prefix_size, self._prefix))
        return readings


def _one(family: Family, value: float | Histogram, labels: Labels = ()) -> Reading:
    reading = Reading(family)
    reading.add(labels, value)
    return reading


def _many(family: Family, cells: Cells[Count] | Cells[Histogram]) -> Reading:
    reading = Reading(family)
    for labels, cell in cells.cells.items():
        reading.add(labels, cell)
    return reading
