"""A router over three endpoints, with real parts: for tests of the router and of what stands before it."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from epp_plugins.pickers.max_score import MaxScorePicker, MaxScorePickerParameters
from epp_plugins.profiles.single import SingleProfileHandler
from epp_plugins.scorers.queue import QueueScorer

from epp.api import (
    Pick,
    Pool,
    Request,
    Services,
    Signals,
)
from epp.config.assembly import Installed, ProfileSpec, Use
from epp.endpoints.endpoint import EndpointSpec
from epp.flow.admission import Admission
from epp.requests.choose import ParserTable
from epp.requests.openai import OpenAIParser
from epp.requests.passthrough import PassthroughParser
from epp.router import Routed, Router
from epp.scheduling.guard import Guard
from epp.scheduling.scheduler import Scheduler
from epp.telemetry import RequestLabels, Telemetry

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from epp.api import Endpoint

CHAT = {":method": "POST", ":path": "/v1/chat/completions", "x-request-id": "r1"}


def chat(**fields: object) -> bytes:
    """Write a chat request."""
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": "hello"}], **fields}).encode()


@dataclass
class Heard(Telemetry):
    """Remembers what was reported."""

    faults: list[str] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)
    rejected: list[tuple[int, str | None]] = field(default_factory=list)

    def internal_fault(self, stage: str) -> None:
        """Remember the stage."""
        self.faults.append(stage)

    def plugin_failed(self, point: str, kind: str, name: str) -> None:
        """Remember the plugin."""
        self.failed.append((point, name))

    def request_rejected(self, labels: RequestLabels, status: int, reason: str | None) -> None:
        """Remember the answer."""
        self.rejected.append((status, reason))


class Adapters:
    """Knows one adapter."""

    def base_of(self, model: str) -> str:
        """Give the base of `lora`."""
        return {"lora": "base"}.get(model, "")


class Journal:
    """Keeps every decision."""

    def __init__(self) -> None:
        """Start empty."""
        self.kept: list[tuple[str, str]] = []

    def record(self, request: Request, pick: Pick | None, endpoint: Endpoint, now: float) -> None:
        """Keep it."""
        self.kept.append((request.id, endpoint.key))


class World:
    """A router over three endpoints."""

    def __init__(self, *, plugins: Sequence[object] = (), scorers: Sequence[object] = (QueueScorer(),), **options: Any) -> None:
        """Put it together; `plugins` are sorted by their verbs."""
        self.pool = Pool(lambda: 0.0)
        self.pool.update([EndpointSpec(f"10.0.0.{n}", 8000) for n in (1, 2, 3)])
        self.heard = Heard()
        self.journal = Journal()
        installed = [Installed(type(plugin).__name__, type(plugin).__name__, plugin) for plugin in plugins]
        guard = Guard(self.heard, lambda: 0.0)
        rng = random.Random(1)
        profile = ProfileSpec(
            "default", (), tuple(Use(Installed(type(s).__name__, "t", s)) for s in scorers),
            Installed("max", "max-score-picker", options.pop("picker", None) or _max_score_picker(rng)),
        )  # fmt: skip
        self.router = Router(
            pool=self.pool,
            parsers=ParserTable(options.pop("parsers", [OpenAIParser(), PassthroughParser()])),
            adapters=Adapters(),  # type: ignore[arg-type]
            admission=Admission([one for one in installed if hasattr(one.plugin, "admit")], guard),
            producers=[one for one in installed if hasattr(one.plugin, "produce")],
            scheduler=Scheduler(
                [profile], Installed("h", "single-profile-handler", SingleProfileHandler()), telemetry=self.heard, random=rng
            ),
            observers=[one for one in installed if hasattr(one.plugin, "routed")],
            guard=guard,
            telemetry=self.heard,
            journal=self.journal,
            clock=lambda: 0.0,
            random=rng,
            **options,
        )

    def load(self, *waiting: float) -> None:
        """Set the queues."""
        for endpoint, queue in zip(self.pool.endpoints, waiting, strict=True):
            self.pool.record(endpoint, Signals(waiting=queue))

    async def route(self, body: bytes | None = None, headers: Mapping[str, str] = CHAT, **options: Any) -> Routed:
        """Route a chat request, or what is given."""
        return await self.router.route(headers, body, options.get("subset"))

    @property
    def inflight(self) -> float:
        """Count what is in flight."""
        return float(self.pool.columns["inflight_requests"].sum())


def _max_score_picker(rng: random.Random) -> MaxScorePicker:
    return MaxScorePicker(MaxScorePickerParameters(), Services("max", lambda: 0.0, rng, Path()))
