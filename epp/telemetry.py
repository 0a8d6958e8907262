"""What the parts of the picker report about their work. The base class reports to nobody; `epp.admin` counts.

Handed in by `app`, so that the router and the scheduler know no metrics library. Methods must be cheap and not raise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from epp.api import Outcome


class RequestLabels(NamedTuple):
    """The labels of the request metrics, in the reference's order."""

    model_name: str
    target_model_name: str
    fairness_id: str
    priority: int


class Telemetry:
    """Every report there is; this base drops them all."""

    def request_received(self, labels: RequestLabels, size: int) -> None:
        """A request of `size` body bytes was read."""

    def request_started(self, labels: RequestLabels) -> None:
        """The request was routed and now runs on a model server."""

    def request_ended(self, labels: RequestLabels) -> None:
        """The routed request no longer runs; once for each `request_started`."""

    def request_finished(self, labels: RequestLabels, outcome: Outcome, *, streaming: bool, prompt_tokens: int) -> None:
        """All that will be known of a routed request is known."""

    def request_rejected(self, labels: RequestLabels, status: int, reason: str | None) -> None:
        """The picker answered the request itself."""

    def request_processed(self, seconds: float) -> None:
        """The picker held a request for `seconds`, from its last byte to the reply."""

    def scheduled(self, target_model: str, endpoint: str, seconds: float) -> None:
        """The scheduler took `seconds`; `endpoint` is the `ip:port` it chose, empty when it found none."""

    def plugin_ran(self, point: str, kind: str, name: str, seconds: float) -> None:
        """A plugin's verb took `seconds`; `point` is Filter, Scorer, Picker and so on."""

    def plugin_failed(self, point: str, kind: str, name: str) -> None:
        """A plugin raised or gave nonsense and was passed over."""

    def internal_fault(self, stage: str) -> None:
        """The picker's own code failed in `stage` and the request was routed by least in-flight."""

    def scrape_failed(self, endpoint: str, cause: str) -> None:
        """A scrape failed: `cause` is timeout, connect, status or parse."""

    def scraped(self, endpoint: str, seconds: float) -> None:
        """A scrape took `seconds`."""

    def prefix_matched(self, matched_tokens: int, total_tokens: int) -> None:
        """A prompt of `total_tokens` went to an endpoint that held `matched_tokens` of its prefix."""

    def prefix_size(self, blocks: int) -> None:
        """The prefix index holds `blocks` (block, endpoint) pairs."""

    def stream_opened(self) -> None:
        """An ext_proc stream began."""

    def stream_closed(self, seconds: float, code: str) -> None:
        """An ext_proc stream ended with gRPC status `code`."""

    def reload(self, what: str, *, ok: bool) -> None:
        """A watched file was read again."""
