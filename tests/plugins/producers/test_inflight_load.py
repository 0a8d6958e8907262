from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from epp_plugins.producers.inflight_load import InflightLoadParameters, InflightLoadProducer
from hypothesis import given as where
from hypothesis import strategies as st
from pydantic import ValidationError

from epp.api import PrefixMatch, Request, Services, TokenLoad


def load(services: Services, request: Request, pool: Any, **given: Any) -> list[float]:
    """Produce with these parameters and give the tokens for each row."""
    InflightLoadProducer(InflightLoadParameters.model_validate(given), services).produce(request, pool.candidates())
    found = request.get(TokenLoad, "mine")
    assert found is not None
    return [float(tokens) for tokens in found.tokens]


def test_the_whole_prompt_counts_where_nothing_is_known(pool: Any, ask: Any, services: Services) -> None:
    """Without prefix matches each endpoint would compute the whole prompt."""
    assert load(services, ask(prompt_tokens=500), pool(2)) == [500.0, 500.0]


def test_the_matched_prefix_is_taken_off(pool: Any, ask: Any, services: Services) -> None:
    """What an endpoint holds need not be computed; the tail beyond the blocks must."""
    request = ask(prompt_tokens=500)
    request.attach(PrefixMatch(np.array([0.0, 3.0, 7.0]), 7, 64), "p")
    assert load(services, request, pool(3)) == [500.0, 500.0 - 3 * 64, 500.0 - 7 * 64]


def test_an_exact_count_below_the_blocks_is_kept(pool: Any, ask: Any, services: Services) -> None:
    """Blocks are cut by bytes; when they come to more than the prompt's exact tokens, the matched share counts."""
    request = ask(prompt_tokens=400)
    request.attach(PrefixMatch(np.array([0.0, 5.0, 10.0]), 10, 64), "p")
    assert load(services, request, pool(3)) == [400.0, 200.0, 0.0]


@where(tokens=st.integers(0, 10**6), total=st.integers(0, 2048), matched=st.integers(0, 2048))
def test_the_load_is_within_the_prompt(tokens: int, total: int, matched: int) -> None:
    """Whatever was matched, the load is neither negative nor more than the prompt."""
    producer = InflightLoadProducer(InflightLoadParameters(), Services("mine", None, None, None))  # type: ignore[arg-type]  # only the name is used
    request = Request("1", "POST", "/", {})
    request.parsed.prompt_tokens = tokens
    request.attach(PrefixMatch(np.array([float(min(matched, total))]), total, 64))

    class OneRow:
        size = 1

    producer.produce(request, OneRow())  # type: ignore[arg-type]  # only the size is looked at
    found = request.get(TokenLoad)
    assert found is not None
    assert -1e-6 <= found.tokens[0] <= tokens


@pytest.mark.parametrize(
    ("given", "max_tokens", "expected"),
    [
        ({}, None, 100.0),
        ({"addEstimatedOutputTokens": True}, None, 250.0),
        ({"addEstimatedOutputTokens": True, "outputRatio": 0}, None, 100.0),
        ({"addEstimatedOutputTokens": True}, 20, 120.0),
        ({"addEstimatedOutputTokens": True}, 0, 100.0),
        ({"addEstimatedOutputTokens": True}, -1, 250.0),
        ({"addEstimatedOutputTokens": True, "maxEstimatedOutputTokens": 30}, 40, 130.0),
        ({"addEstimatedOutputTokens": True, "maxEstimatedOutputTokens": 30}, 20, 120.0),
        ({"maxEstimatedOutputTokens": 30}, 20, 100.0),
    ],
)
def test_output_is_estimated_if_configured(  # noqa: PLR0917 - three are cases
    pool: Any, ask: Any, services: Services, given: dict[str, Any], max_tokens: int | None, expected: float
) -> None:
    """The ratio gives the estimate, the client's limit and the configured one bound it."""
    assert load(services, ask(prompt_tokens=100, max_tokens=max_tokens), pool(1), **given) == [expected]


def test_the_named_prefix_producer_is_heard(pool: Any, ask: Any, services: Services) -> None:
    """Of two prefix producers the configured one's matches are taken off."""
    request = ask(prompt_tokens=100)
    request.attach(PrefixMatch(np.array([1.0]), 1, 64), "first")
    request.attach(PrefixMatch(np.array([0.0]), 1, 64), "second")
    assert load(services, request, pool(1), prefixMatchInfoProducerName="first") == [36.0]


@pytest.mark.parametrize("given", [{"outputRatio": -1}, {"maxEstimatedOutputTokens": -1}, {"ratio": 2}])
def test_parameters_that_make_no_sense_are_refused(given: dict[str, Any]) -> None:
    """Negative estimates and unknown names stop the start."""
    with pytest.raises(ValidationError):
        InflightLoadParameters.model_validate(given)
