"""How often an endpoint is asked. Pure: it sees counts and the last delay, never a clock or a socket.

Rule. A busy endpoint (requests in flight, or values that changed) is asked every `interval`. Any other, and one that
fails, is asked half as often each time, down to every `max_interval`. All together stay within `max_rate` scrapes a
second: the quiet ones take what they need, the busy ones share the rest (never less than a quarter of it), so with many
busy endpoints the interval stretches. It never stretches beyond `max_interval`: fresh numbers come before the budget,
and a pool of more than `max_rate * max_interval` endpoints costs more than `max_rate`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds between scrapes, and the budget for all endpoints together.

    `max_interval` must stay below the age at which metrics count as stale (2 s), or idle endpoints would look lost.
    500 scrapes a second take about an eighth of a core, a quarter when each page has 200 KB.
    """

    interval: float = 0.05
    max_interval: float = 1.0
    max_rate: float = 500.0

    def floor(self, busy: int, quiet: int) -> float:
        """Give the shortest delay the budget allows, with so many endpoints of each sort."""
        left = max(self.max_rate - quiet / self.max_interval, self.max_rate / 4)
        return min(max(self.interval, busy / left), max(self.interval, self.max_interval))


def next_delay(last: float, *, busy: bool, floor: float, pace: Pace) -> float:
    """Give the seconds until an endpoint is asked again, after a scrape that came `last` seconds after its predecessor."""
    if busy:
        return floor
    return min(2 * max(last, floor), max(floor, pace.max_interval))
