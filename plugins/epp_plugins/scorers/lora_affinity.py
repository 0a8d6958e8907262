"""Prefers endpoints that have the request's LoRA adapter loaded, or have room to load it."""

from __future__ import annotations

import numpy as np

from epp.api import Candidates, Request, Scores

ACTIVE, ROOM, WAITING, FULL = 1.0, 0.8, 0.6, 0.0


class LoraAffinityScorer:
    """1 where the adapter is active, 0.8 where another one fits, 0.6 where it waits to be loaded, else 0.

    The adapter is the request's target model. An endpoint that reports no LoRA state has no room for one and scores 0, so a
    pool without LoRA is rated evenly.
    """

    def score(self, request: Request, pool: Candidates) -> Scores:
        """Rate by what has to be loaded for `request`."""
        waiting = pool.with_adapter(request.target_model, waiting=True)
        room = pool.attribute("lora_active") + pool.attribute("lora_waiting") < pool.attribute("lora_max")  # false for NaN
        scores = np.where(room, ROOM, np.where(waiting, WAITING, FULL))
        scores[pool.with_adapter(request.target_model)] = ACTIVE
        return scores
