"""The choice that needs no plugin: the candidate with the least in flight. Knows nothing of requests or scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random

    from epp.api import Candidates, Endpoint


def least_inflight(candidates: Candidates, random: random.Random) -> Endpoint:
    """Give the candidate with the fewest requests in flight, one of them at random when several have; there must be one.

    The counts are the picker's own and always known, so this choice cannot fail where a scorer or a picker did.
    """
    return candidates.endpoints[least_inflight_position(candidates, random)]


def least_inflight_position(candidates: Candidates, random: random.Random) -> int:
    """Give the position of that candidate among `candidates`."""
    inflight = candidates.inflight_requests
    fewest = (inflight == inflight.min()).nonzero()[0]
    return int(fewest[random.randrange(len(fewest))])
