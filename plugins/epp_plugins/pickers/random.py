"""Picks candidates at random, whatever their scores."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from epp.api import Candidates, Parameters, Request, Rows, Scores, Services


class RandomPickerParameters(Parameters):
    """Parameters of `random-picker`."""

    max_num_of_endpoints: int = Field(
        default=1, description="Endpoints to name: the choice, then fallbacks for the proxy; values below 1 mean 1."
    )


class RandomPicker:
    """Every candidate is as likely as any other."""

    def __init__(self, parameters: RandomPickerParameters, services: Services) -> None:
        """Take the number of endpoints to name, and the randomness."""
        self._count = max(1, parameters.max_num_of_endpoints)
        self._random = services.random

    def pick(self, request: Request, pool: Candidates, totals: Scores) -> Rows:
        """Give positions drawn without replacement."""
        count = len(pool)
        return np.array(self._random.sample(range(count), min(self._count, count)), dtype=np.intp)
