"""Picks the best candidates by total score."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from epp.api import Candidates, Parameters, Request, Rows, Scores, Services


class MaxScorePickerParameters(Parameters):
    """Parameters of `max-score-picker`."""

    max_num_of_endpoints: int = Field(
        default=1, description="Endpoints to name: the choice, then fallbacks for the proxy; values below 1 mean 1."
    )


class MaxScorePicker:
    """The highest totals first, equal ones in random order."""

    def __init__(self, parameters: MaxScorePickerParameters, services: Services) -> None:
        """Take the number of endpoints to name, and the randomness that breaks ties."""
        self._count = max(1, parameters.max_num_of_endpoints)
        self._random = services.random

    def pick(self, request: Request, pool: Candidates, totals: Scores) -> Rows:
        """Give the positions of the best."""
        if self._count == 1:
            best: Rows = (totals == totals.max()).nonzero()[0]
            at = self._random.randrange(len(best)) if len(best) > 1 else 0
            return best[at : at + 1]
        count = min(self._count, len(totals))
        last = np.partition(totals, -count)[-count]
        best = (totals >= last).nonzero()[0]  # those that tie for the last place are all in
        draw = np.array([self._random.random() for _ in range(len(best))])
        order: Rows = np.lexsort((draw, -totals[best]))[:count]
        return best[order]
