from __future__ import annotations

from typing import Any

import pytest
from epp_plugins.scorers.active_request import ActiveRequestParameters, ActiveRequestScorer


@pytest.mark.parametrize(
    ("given", "inflight", "expected"),
    [
        ({}, [0, 1, 4], [1.0, 0.75, 0.0]),
        ({}, [0, 0], [1.0, 1.0]),
        ({}, [3, 3], [0.0, 0.0]),
        ({"idleThreshold": 2}, [0, 2, 4], [1.0, 1.0, 0.0]),
        ({"idleThreshold": 9}, [0, 2, 4], [1.0, 1.0, 1.0]),
        ({"idleThreshold": -5}, [0, 4], [1.0, 0.0]),
        ({"maxBusyScore": 0.5}, [0, 1, 4], [1.0, 0.375, 0.0]),
        ({"maxBusyScore": 0.0}, [0, 1, 4], [1.0, 0.0, 0.0]),
        ({"maxBusyScore": 7}, [0, 1, 4], [1.0, 0.75, 0.0]),
        ({"requestTimeout": "2m", "inFlightLoadProducerName": "x"}, [0, 4], [1.0, 0.0]),
    ],
)
def test_the_fewer_in_flight_the_better(
    pool: Any, ask: Any, given: dict[str, Any], inflight: list[float], expected: list[float]
) -> None:
    """Idle endpoints score 1, busy ones by their distance to the busiest, at most `maxBusyScore`."""
    scorer = ActiveRequestScorer(ActiveRequestParameters.model_validate(given))
    assert scorer.score(ask(), pool(inflight_requests=inflight).candidates()).tolist() == expected


def test_leases_are_what_is_counted(pool: Any, ask: Any) -> None:
    """A reservation lowers the score at once, and its end restores it."""
    endpoints, scorer = pool(2), ActiveRequestScorer(ActiveRequestParameters())
    lease = endpoints.reserve(endpoints.endpoints[0])
    assert scorer.score(ask(), endpoints.candidates()).tolist() == [0.0, 1.0]
    lease.end()
    assert scorer.score(ask(), endpoints.candidates()).tolist() == [1.0, 1.0]
