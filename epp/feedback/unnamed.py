"""Pairs access-log entries that name no exchange with exchanges whose end nobody told: by the request's id.

A client that leaves while the picker's reply is on its way leaves an exchange that Envoy never heard of: its entry comes
without the picker's metadata. Entry and end of the stream may come in either order. Request ids may be a client's own and
not unique, so an exchange is only paired once its stream is over and if it saw no answer, and never with an entry that came
before it began. Knows no clock.
"""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

from epp.feedback.access_log import Entry

MOST_ENTRIES = 1000  # the other half of a pair comes within a fraction of a second
_OWN = "epp:"  # begins the details of what the picker refused: no exchange was made for it


class Identified(Protocol):
    """What an exchange must tell."""

    @property
    def request_id(self) -> str:
        """The request's id, as the access log has it too."""
        ...

    @property
    def started(self) -> float:
        """When the picker first saw it, on the clock that `claim` is told the time of."""
        ...


Waiting = TypeVar("Waiting", bound=Identified)


class Unnamed(Generic[Waiting]):
    """The halves that have not met."""

    def __init__(self) -> None:
        """Start with none."""
        self._waiting: dict[str, list[Waiting]] = {}
        self._entries: dict[str, tuple[float, Entry]] = {}  # when it came, and the entry; oldest first

    def wait(self, exchange: Waiting) -> Entry | None:
        """Let `exchange` wait for its entry; give the entry instead when it has come already."""
        came, entry = self._entries.pop(exchange.request_id, (0.0, None))
        if entry is None or came < exchange.started:  # an entry of an earlier request with the same id
            self._waiting.setdefault(exchange.request_id, []).append(exchange)
            return None
        return entry

    def forget(self, exchange: Waiting) -> None:
        """`exchange` waits no more; it need not have waited at all."""
        waiting = self._waiting.get(exchange.request_id)
        if waiting is not None and exchange in waiting:
            waiting.remove(exchange)
            if not waiting:
                del self._waiting[exchange.request_id]

    def claim(self, entry: Entry, now: float) -> Waiting | None:
        """Give the exchange that `entry` ends: the one that has waited longest. Without one the entry is kept for a while."""
        waiting = self._waiting.get(entry.request_id)
        if waiting:
            return waiting[0]
        if entry.request_id and not entry.details.startswith(_OWN):
            self._entries.pop(entry.request_id, None)
            self._entries[entry.request_id] = now, entry
            if len(self._entries) > MOST_ENTRIES:
                del self._entries[next(iter(self._entries))]
        return None
