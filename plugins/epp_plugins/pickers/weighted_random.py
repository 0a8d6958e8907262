"""Picks candidates at random, with chances in proportion to their total scores."""

from __future__ import annotations

import math

import numpy as np
from pydantic import Field

from epp.api import Candidates, Parameters, Request, Rows, Scores, Services


class WeightedRandomPickerParameters(Parameters):
    """Parameters of `weighted-random-picker`."""

    max_num_of_endpoints: int = Field(
        default=1, description="Endpoints to name: the choice, then fallbacks for the proxy; values below 1 mean 1."
    )


class WeightedRandomPicker:
    """Draws without replacement by the key U^(1/score) (Efraimidis and Spirakis); the largest keys win.

    Its logarithm, log(U) / score, orders the same and does not vanish for small scores. Candidates without a positive
    score come last, in random order, so all are equally likely when nobody has one.
    """

    def __init__(self, parameters: WeightedRandomPickerParameters, services: Services) -> None:
        """Take the number of endpoints to name, and the randomness."""
        self._count = max(1, parameters.max_num_of_endpoints)
        self._random = services.random

    def pick(self, request: Request, pool: Candidates, totals: Scores) -> Rows:
        """Give the positions of the largest keys."""
        random = self._random.random
        draw = np.array([math.log(1.0 - random()) for _ in range(len(totals))])  # of a number in (0, 1]
        positive = totals > 0.0
        keys = np.where(positive, draw / np.where(positive, totals, 1.0), -np.inf)
        if self._count == 1 and positive.any():
            best = int(keys.argmax())
            return np.array([best], dtype=np.intp)
        return np.lexsort((draw, -keys))[: self._count]
