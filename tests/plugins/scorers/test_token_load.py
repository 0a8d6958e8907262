from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from epp_plugins.scorers.token_load import TokenLoadParameters, TokenLoadScorer

from epp.api import TokenLoad


@pytest.mark.parametrize(
    ("given", "expected"),
    [({"queueThresholdTokens": 100}, [0.8, 0.3, 0.0]), ({"queueThresholdTokens": -1}, None), ({}, None)],
)
def test_the_fewer_tokens_the_better(pool: Any, ask: Any, given: dict[str, int], expected: list[float] | None) -> None:
    """Tokens in flight and this request's own are rated against the threshold, 4 Mi by default."""
    scorer, request = TokenLoadScorer(TokenLoadParameters.model_validate(given)), ask()
    request.attach(TokenLoad(np.array([20.0, 20.0, 0.0])), "load")
    scores = scorer.score(request, pool(inflight_tokens=[0.0, 50.0, 999.0]).candidates())
    assert scores.tolist() == pytest.approx(expected or [1 - tokens / 4_194_304 for tokens in (20, 70, 999)])


def test_without_an_estimate_the_load_in_flight_counts(pool: Any, ask: Any) -> None:
    """When nobody attached a `TokenLoad`, or not the named producer, the request itself weighs nothing."""
    request, endpoints = ask(), pool(inflight_tokens=[0.0, 50.0])
    given = {"queueThresholdTokens": 100, "inFlightLoadProducerName": "other"}
    scorer = TokenLoadScorer(TokenLoadParameters.model_validate(given))
    request.attach(TokenLoad(np.array([100.0, 100.0])), "load")
    assert scorer.score(request, endpoints.candidates()).tolist() == [1.0, 0.5]


def test_the_pool_is_not_changed(pool: Any, ask: Any) -> None:
    """Scoring adds to a copy: two looks give the same scores."""
    scorer, request, endpoints = TokenLoadScorer(TokenLoadParameters()), ask(), pool(inflight_tokens=[9.0])
    request.attach(TokenLoad(np.array([5.0])))
    assert [scorer.score(request, endpoints.candidates())[0] for _ in range(2)] == [1 - 14 / 4_194_304] * 2
