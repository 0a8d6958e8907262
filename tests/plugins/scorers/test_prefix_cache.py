from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from epp_plugins.scorers.prefix_cache import PrefixCacheScorer, PrefixCacheScorerParameters
from pydantic import ValidationError

from epp.api import PrefixMatch


def scorer(**given: Any) -> PrefixCacheScorer:
    """Make a scorer with these parameters, as the configuration spells them."""
    return PrefixCacheScorer(PrefixCacheScorerParameters.model_validate(given))


def test_the_matched_share_counts(pool: Any, ask: Any) -> None:
    """By default the score is matched blocks by all blocks, for each candidate its own."""
    request = ask()
    request.attach(PrefixMatch(np.array([0.0, 2.0, 4.0]), 4, 64), "mine")
    candidates = pool(3).candidates([("10.0.0.2", None), ("10.0.0.3", None)])
    assert scorer().score(request, candidates).tolist() == [0.5, 1.0]


def test_length_counts_as_weighted(pool: Any, ask: Any) -> None:
    """With a weight, the square of the match's length against the scale takes that share of the score."""
    request = ask()
    request.attach(PrefixMatch(np.array([0.0, 50.0, 100.0]), 100, 100), "mine")
    scores = scorer(matchLengthWeight=0.25, matchLengthScaleTokens=8000).score(request, pool(3).candidates())
    assert scores.tolist() == pytest.approx([0.0, 0.25 * 0.625**2 + 0.75 * 0.5, 0.25 * 1.0 + 0.75])


def test_a_prompt_without_blocks_scores_nothing(pool: Any, ask: Any) -> None:
    """No blocks, or no match attached at all: 0 for everybody."""
    request = ask()
    assert scorer().score(request, pool(2).candidates()).tolist() == [0.0, 0.0]
    request.attach(PrefixMatch(np.zeros(2), 0, 64), "mine")
    assert scorer().score(request, pool(2).candidates()).tolist() == [0.0, 0.0]


def test_the_named_producer_is_heard(pool: Any, ask: Any) -> None:
    """With two producers the configured one's matches count, without a name the last one's."""
    request = ask()
    request.attach(PrefixMatch(np.array([1.0]), 1, 64), "first")
    request.attach(PrefixMatch(np.array([0.0]), 1, 64), "second")
    named = scorer(prefixMatchInfoProducerName="first")
    assert named.score(request, pool(1).candidates()).tolist() == [1.0]
    assert scorer().score(request, pool(1).candidates()).tolist() == [0.0]


@pytest.mark.parametrize(
    "given",
    [{"matchLengthWeight": 1.5}, {"matchLengthWeight": -0.1}, {"matchLengthWeight": 0.5, "matchLengthScaleTokens": 0}],
)
def test_weights_that_make_no_sense_are_refused(given: dict[str, Any]) -> None:
    """A weight outside of 0 to 1, or one without a scale, stops the start."""
    with pytest.raises(ValidationError):
        scorer(**given)


def test_an_unused_scale_is_not_looked_at() -> None:
    """Without a weight the scale may be anything, as in the reference."""
    scorer(matchLengthScaleTokens=0)
