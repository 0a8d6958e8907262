"""Prefers endpoints that hold more of the prompt's prefix."""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np
from pydantic import Field, model_validator

from epp.api import Candidates, Data, Parameters, PrefixMatch, Request, Scores


class PrefixCacheScorerParameters(Parameters):
    """Parameters of `prefix-cache-scorer`."""

    match_length_weight: float = Field(
        default=0.0,
        ge=0.0,
        le=1.0,
        description="Share of the score that is for the length of the match; the rest is for its ratio.",
    )
    match_length_scale_tokens: int = Field(default=8192, description="Tokens from which a match counts as full length.")
    prefix_match_info_producer_name: str = Field(
        default="", description="The prefix producer whose matches are used; empty for the last configured."
    )

    @model_validator(mode="after")
    def _scale_is_positive(self) -> Self:
        if self.match_length_weight > 0.0 and self.match_length_scale_tokens <= 0:
            message = "matchLengthScaleTokens must be above 0 when matchLengthWeight is"
            raise ValueError(message)
        return self


class PrefixCacheScorer:
    """The matched share of the prompt, and (if weighted) the square of the match's length against a scale.

    A prompt too short to have a whole block scores 0 everywhere.
    """

    needs: ClassVar[tuple[type[Data], ...]] = (PrefixMatch,)

    def __init__(self, parameters: PrefixCacheScorerParameters) -> None:
        """Take the weights and whose matches to use."""
        self._weight = parameters.match_length_weight
        self._scale = float(parameters.match_length_scale_tokens)
        self._producer = parameters.prefix_match_info_producer_name

    def score(self, request: Request, pool: Candidates) -> Scores:
        """Rate by the prefix match that a producer attached."""
        match = request.get(PrefixMatch, self._producer)
        if match is None or not match.total:
            return pool.full(0.0)
        matched = pool.take(match.matched)
        if not self._weight:
            return matched / match.total
        length = np.minimum(1.0, matched * match.block_tokens / self._scale)
        return self._weight * length * length + (1.0 - self._weight) * (matched / match.total)
