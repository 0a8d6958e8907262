"""What the feedback tests work in: a clock that is set, telemetry that remembers, a pool, and requests to route."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

from epp.api import Endpoint, EndpointSpec, Outcome, Parsed, Pool, Request
from epp.endpoints.lease import Lease
from epp.feedback.registry import Exchange, Exchanges, Hook, Patience
from epp.telemetry import RequestLabels, Telemetry

LABELS = RequestLabels("m", "m", "default-flow", 0)
ANNOUNCED = {"x-epp-completion": "access-log", "x-epp-node": "envoy-1"}
FIRST, SECOND = "10.0.0.1:8000", "10.0.0.2:8000"  # the endpoints of the pool
PATIENCE = Patience(grace=10, report=60, age=3600, reports=3)


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        """Start at 100 s."""
        self.now = 100.0

    def __call__(self) -> float:
        """Tell the time."""
        return self.now


class Remembering(Telemetry):
    """Telemetry that remembers what the registry reports."""

    def __init__(self) -> None:
        """Start with nothing."""
        self.started = self.ended = 0
        self.outcomes: list[Outcome] = []
        self.streaming: list[bool] = []
        self.prompt_tokens: list[int] = []
        self.failed: list[tuple[str, str, str]] = []

    def request_started(self, labels: RequestLabels) -> None:
        """Count."""
        assert labels == LABELS
        self.started += 1

    def request_ended(self, labels: RequestLabels) -> None:
        """Count."""
        assert labels == LABELS
        self.ended += 1

    def request_finished(self, labels: RequestLabels, outcome: Outcome, *, streaming: bool, prompt_tokens: int) -> None:
        """Keep the outcome."""
        assert labels == LABELS
        self.outcomes.append(outcome)
        self.streaming.append(streaming)
        self.prompt_tokens.append(prompt_tokens)

    def plugin_failed(self, point: str, kind: str, name: str) -> None:
        """Keep what failed."""
        self.failed.append((point, kind, name))


@dataclass
class Routed:
    """A decision as the router hands it over."""

    request: Request
    endpoints: list[Endpoint]
    lease: Lease
    labels: RequestLabels = LABELS


@dataclass
class World:
    """A registry with all it works with."""

    clock: Clock = field(default_factory=Clock)
    telemetry: Remembering = field(default_factory=Remembering)
    finished: Counter[str] = field(default_factory=Counter)
    outcomes: list[Outcome] = field(default_factory=list)
    first_tokens: list[tuple[str, str]] = field(default_factory=list)
    patience: Patience = PATIENCE
    broken: bool = True  # among the plugins is one that always raises

    def __post_init__(self) -> None:
        """Make the pool and the registry."""
        self.pool = Pool(self.clock)
        self.pool.update([EndpointSpec("10.0.0.1", 8000), EndpointSpec("10.0.0.2", 8000)])
        broken = [Hook("broken", "bad", self._raise)] if self.broken else []
        self.exchanges = Exchanges(
            pool=self.pool,
            telemetry=self.telemetry,
            clock=self.clock,
            random=random.Random(1),
            first_token=[*broken, Hook("first", "t", self._note_first_token)],
            finished=[*broken, Hook("finish", "t", self._note_finished)],
            patience=self.patience,
        )
        self._made = 0

    def route(self, metadata: dict[str, str] | None = None, *, stream: bool = True) -> Exchange:
        """Route a request to the first endpoint and register it."""
        self._made += 1
        request = Request(f"r{self._made}", "POST", "/v1/chat/completions", {}, body=b"body")
        request.parsed = Parsed(model="m", stream=stream, prompt=b"prompt", prompt_tokens=5)
        endpoint = self.pool.endpoints[0]
        routed = Routed(request, [endpoint], self.pool.reserve(endpoint, 5.0))
        return self.exchanges.register(routed, metadata=ANNOUNCED if metadata is None else metadata, started=self.clock.now)

    @property
    def inflight(self) -> float:
        """Requests in flight on the first endpoint."""
        return float(self.pool.columns["inflight_requests"][0])

    def ttft(self, row: int = 0) -> float:
        """Give the average time to first token of an endpoint; NaN when unknown."""
        return float(self.pool.columns["ttft"][row])

    def _note_first_token(self, request: Request, endpoint: Endpoint) -> None:
        self.first_tokens.append((request.id, endpoint.key))

    def _note_finished(self, request: Request, outcome: Outcome) -> None:
        self.finished[request.id] += 1
        self.outcomes.append(outcome)

    def _raise(self, *_arguments: object) -> None:
        message = "a plugin's bug"
        raise RuntimeError(message)
