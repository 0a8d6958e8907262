"""The last decisions and why they fell: what the picker chose, among whom, and what each scorer thought.

Keeping a decision is an append of references; it is put into words when somebody asks. Of the request only its id and its
models are kept, never the request itself: it holds the prompt.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from epp.admin.labels import clean

if TYPE_CHECKING:
    from collections.abc import Iterator

    from epp.api import Endpoint, Pick, Request

MOST_VALUES = 2_000_000  # scores kept in all: 16 MB, whatever the size of the pool


class Decision(NamedTuple):
    """One decision. `pick` is None when the choice fell to the least in flight."""

    at: float
    request_id: str
    model: str
    target_model: str
    pick: Pick | None
    endpoint: Endpoint


class DecisionLog:
    """A ring of recent decisions."""

    def __init__(self, capacity: int = 1000, *, most_values: int = MOST_VALUES) -> None:
        """Keep at most `capacity` decisions with `most_values` scores in all; the newest is always kept."""
        self.capacity = capacity
        self._most_values = most_values
        self._values = 0
        self._ring: deque[Decision] = deque()

    def __len__(self) -> int:
        """Count the decisions kept."""
        return len(self._ring)

    def record(self, request: Request, pick: Pick | None, endpoint: Endpoint, now: float) -> None:
        """Keep the decision."""
        self._ring.append(Decision(now, request.id, request.model, request.target_model, pick, endpoint))
        self._values += _values(pick)
        while len(self._ring) > self.capacity or (self._values > self._most_values and len(self._ring) > 1):
            self._values -= _values(self._ring.popleft().pick)

    def recent(self, *, limit: int | None = None, request_id: str | None = None) -> list[Decision]:
        """Give the newest first: at most `limit`, those of `request_id` only if given."""
        found: Iterator[Decision] = reversed(self._ring)
        if request_id is not None:
            found = (decision for decision in found if decision.request_id == request_id)
        return [decision for decision, _ in zip(found, range(self.capacity if limit is None else limit), strict=False)]


def _values(pick: Pick | None) -> int:
    return len(pick.candidates) * (1 + len(pick.parts)) if pick is not None else 0


def described(decision: Decision, now: float) -> dict[str, Any]:
    """Put `decision` into words; candidates are ordered by total, the best first."""
    pick = decision.pick
    return {
        "request_id": clean(decision.request_id),
        "model": clean(decision.model),
        "target_model": clean(decision.target_model),
        "age_seconds": max(0.0, now - decision.at),
        "endpoint": decision.endpoint.key,
        "by": "scheduler" if pick is not None else "least in flight",
        "profile": clean(pick.profile) if pick is not None else None,
        "endpoints": [endpoint.key for endpoint in pick.endpoints] if pick is not None else [decision.endpoint.key],
        "candidates": _candidates(pick, decision.endpoint) if pick is not None else [],
    }


def _candidates(pick: Pick, chosen: Endpoint) -> list[dict[str, Any]]:
    totals = pick.totals.tolist() if pick.totals is not None else [None] * len(pick.candidates)
    parts = [(clean(name), weight, scores.tolist()) for name, weight, scores in pick.parts]
    rows = [
        {
            "endpoint": endpoint.key,
            "chosen": endpoint is chosen,
            "total": _known(total),
            "scores": {name: {"weight": _known(weight), "score": _known(scores[n])} for name, weight, scores in parts},
        }
        for n, (endpoint, total) in enumerate(zip(pick.candidates, totals, strict=True))
    ]
    return sorted(rows, key=lambda row: (-math.inf if row["total"] is None else row["total"], row["chosen"]), reverse=True)


def _known(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
