"""What is counted about requests, by their labels. Decides which outcomes are errors, and which durations are worth keeping.

One look-up finds all the numbers of a request's labels. The larger half of them exists only once a request with these
labels was answered: clients that invent model names should cost little.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from epp.admin import families
from epp.admin.histogram import Count, Histogram, Reading
from epp.admin.labels import Cells, Labels, Limit, clean

if TYPE_CHECKING:
    from epp.api import Outcome
    from epp.telemetry import RequestLabels

MOST_LABEL_SETS = 5000
NATURAL = "natural"
_MOST_TOKENS = 2**53
#: The reference's error codes by HTTP status.
_CODES = {
    400: "BadRequest", 401: "Unauthorized", 403: "Forbidden", 404: "NotFound", 412: "PreconditionFailed",
    413: "BadRequest", 429: "ResourceExhausted", 500: "Internal", 503: "ServiceUnavailable",
}  # fmt: skip
_ENDS = {"error": "ModelServerError", "evicted": "ResourceExhausted"}

_HISTOGRAMS = (
    ("duration", families.DURATION),
    ("response_size", families.RESPONSE_SIZE),
    ("input_tokens", families.INPUT_TOKENS),
    ("output_tokens", families.OUTPUT_TOKENS),
    ("cached_tokens", families.CACHED_TOKENS),
    ("ntpot", families.NTPOT),
    ("tpot", families.TPOT),
)


class Answers:
    """What is known of the answers to requests with the same labels."""

    __slots__ = (*(name for name, _ in _HISTOGRAMS), "ttft")

    def __init__(self) -> None:
        """Start empty."""
        self.duration = Histogram(families.DURATION.bounds)
        self.response_size = Histogram(families.RESPONSE_SIZE.bounds)
        self.input_tokens = Histogram(families.INPUT_TOKENS.bounds)
        self.output_tokens = Histogram(families.OUTPUT_TOKENS.bounds)
        self.cached_tokens = Histogram(families.CACHED_TOKENS.bounds)
        self.ntpot = Histogram(families.NTPOT.bounds)
        self.tpot = Histogram(families.TPOT.bounds)
        self.ttft = (Histogram(families.TTFT.bounds), Histogram(families.TTFT.bounds))  # plain, streaming

    def observe(self, outcome: Outcome, *, streaming: bool, prompt_tokens: int) -> None:
        """Count a complete answer."""
        usage, output = outcome.usage, _tokens(outcome.usage.completion_tokens)
        self._observe_times(_known(outcome.ttft), _known(outcome.duration), output, streaming=streaming)
        if outcome.response_bytes is not None:
            self.response_size.observe(outcome.response_bytes)
        if output:
            self.output_tokens.observe(output)
        if given := _tokens(usage.prompt_tokens) or _tokens(prompt_tokens):
            self.input_tokens.observe(given)
        if (cached := _tokens(usage.cached_tokens)) is not None:
            self.cached_tokens.observe(cached)

    def _observe_times(self, ttft: float | None, duration: float | None, output: int | None, *, streaming: bool) -> None:
        if ttft is not None:
            self.ttft[streaming].observe(ttft)
        if duration is None:
            return
        self.duration.observe(duration)
        if output:
            self.ntpot.observe(duration / output)
            if streaming and output > 1 and ttft is not None and duration >= ttft:
                self.tpot.observe((duration - ttft) / (output - 1))


class Series:
    """All numbers of the requests with the same labels."""

    __slots__ = ("answers", "errors", "received", "running", "size", "started")

    def __init__(self) -> None:
        """Start at nothing."""
        self.received = self.started = self.running = 0
        self.size = Histogram(families.REQUEST_SIZE.bounds)
        self.errors: dict[str, Count] = {}
        self.answers: Answers | None = None

    def error(self, code: str) -> None:
        """Count an error."""
        count = self.errors.get(code)
        if count is None:
            count = self.errors[code] = Count()
        count.value += 1

    def finish(self, outcome: Outcome, *, streaming: bool, prompt_tokens: int) -> None:
        """Count the end of a routed request."""
        if outcome.status is not None and outcome.status >= 400:
            self.error("ModelServerError")
        elif outcome.cause in _ENDS:
            self.error(_ENDS[outcome.cause])
        if outcome.cause != NATURAL:
            return  # what was cut off says nothing of how long answers take
        if self.answers is None:
            self.answers = Answers()
        self.answers.observe(outcome, streaming=streaming, prompt_tokens=prompt_tokens)


def _known(seconds: float | None) -> float | None:
    """Give `seconds` if it can be a duration; clocks of two machines were subtracted to get it."""
    return seconds if seconds is not None and 0 <= seconds < float("inf") else None


def _tokens(count: int | None) -> int | None:
    """Give `count` if it can be a number of tokens; a model server wrote it."""
    return count if count is not None and 0 <= count < _MOST_TOKENS else None


def error_code(status: int) -> str:
    """Name the error that the picker answered with HTTP `status`, as the reference does."""
    return _CODES.get(status) or ("BadRequest" if status < 500 else "Internal")


class Requests:
    """The series of all labels, few enough."""

    def __init__(self) -> None:
        """Start empty."""
        self.models = Limit()
        self.fairness = Limit()
        self._series: Cells[Series] = Cells(Series, most=MOST_LABEL_SETS, name=self._bound)
        self._known = self._series.at

    def at(self, labels: RequestLabels) -> Series:
        """Give the series of `labels`."""
        return self._known(labels)  # type: ignore[arg-type]  # the priority is made text when they are first seen

    def _bound(self, labels: Labels) -> Labels:
        model, target, fairness, priority = labels
        return self.models.bound(model), self.models.bound(target), self.fairness.bound(fairness), clean(str(priority))

    def read(self) -> list[Reading]:
        """Copy all numbers. A series shows only what it has seen."""
        received, sizes = Reading(families.REQUESTS), Reading(families.REQUEST_SIZE)
        errors, running, ttft = Reading(families.REQUEST_ERRORS), Reading(families.RUNNING), Reading(families.TTFT)
        histograms = [(name, Reading(family)) for name, family in _HISTOGRAMS]
        for labels, series in self._series.cells.items():
            if series.received:
                received.add(labels, series.received)
                sizes.add(labels, series.size)
            if series.started:
                running.add(labels, series.running)
            for code, count in series.errors.items():
                errors.add((*labels, code), count)
            if series.answers is None:
                continue
            for name, reading in histograms:
                histogram: Histogram = getattr(series.answers, name)
                if any(histogram.counts):
                    reading.add(labels, histogram)
            for streaming, histogram in zip(("false", "true"), series.answers.ttft, strict=True):
                if any(histogram.counts):
                    ttft.add((*labels, streaming), histogram)
        return [received, errors, running, sizes, *(reading for _, reading in histograms), ttft]
