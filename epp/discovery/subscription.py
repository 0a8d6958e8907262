"""One xDS stream, state of the world, as a value machine: requests in, answers out. No I/O, no clock.

What it decides: which request is stale (its nonce is not the last answer's), what is a refusal, and whether there is
anything to send. Nothing is sent twice: neither what was accepted nor what was refused, until the content changes.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import TYPE_CHECKING

from google.protobuf.any_pb2 import Any

from epp.pb.eds_pb2 import DiscoveryResponse

if TYPE_CHECKING:
    from epp.pb.eds_pb2 import DiscoveryRequest

TYPE_URL = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"


class Heard(Enum):
    """What a request was."""

    ASKED = "asked"  # the first one, or other names than before
    ACCEPTED = "accepted"
    REFUSED = "refused"
    STALE = "stale"
    FOREIGN = "foreign"  # another type of resource


class Subscription:
    """What one client wants and has."""

    def __init__(self, wildcard: Iterable[str]) -> None:
        """Start unasked; `wildcard` are the names for a client that asks for everything."""
        self._wildcard = frozenset(wildcard)
        self._asked = False
        self._sent: dict[str, bytes] = {}  # what the client was last sent, by name
        self._nonce = 0
        self.names: frozenset[str] = frozenset()

    def hear(self, request: DiscoveryRequest) -> Heard:
        """Take a request in."""
        if request.type_url not in ("", TYPE_URL):
            return Heard.FOREIGN
        if request.response_nonce and request.response_nonce != str(self._nonce):
            return Heard.STALE  # it answers an answer that a newer one has overtaken; the client will speak again
        wanted = frozenset(request.resource_names)
        if "*" in wanted or (not wanted and not self._asked):
            wanted |= self._wildcard
        wanted -= {"*"}
        first, self._asked = not self._asked, True
        other, self.names = wanted != self.names, wanted
        if not request.response_nonce:
            self._sent = {}  # a client that starts over has nothing
        if request.HasField("error_detail"):
            return Heard.REFUSED
        return Heard.ASKED if first or other else Heard.ACCEPTED

    def answer(self, version: str, resources: dict[str, bytes]) -> bytes | None:
        """Give the message that brings the client up to date with `resources` (one for each of `names`), or None."""
        wanted = {name: resources[name] for name in sorted(self.names)}
        news = any(self._sent.get(name) != content for name, content in wanted.items())
        self._sent = wanted
        if not news:
            return None
        self._nonce += 1
        response = DiscoveryResponse(version_info=version, type_url=TYPE_URL, nonce=str(self._nonce))
        response.resources.extend(Any(type_url=TYPE_URL, value=content) for content in wanted.values())
        return response.SerializeToString()
