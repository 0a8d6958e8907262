"""Which Envoy a stream comes from, and whether that Envoy's access log still reaches us. No clock of its own.

An Envoy names itself: in the ext_proc stream's metadata, and in the first message of an access-log stream. Where it
does not, its host stands for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

NODE_KEY = "x-epp-node"
COMPLETION_KEY = "x-epp-completion"
ACCESS_LOG = "access-log"
PEER_KEY = ":peer"


def node_of(metadata: Mapping[str, str]) -> str:
    """Name the Envoy behind a stream by its metadata: what it says, else its host."""
    return metadata.get(NODE_KEY) or peer_host(metadata.get(PEER_KEY, ""))


def announces_log(metadata: Mapping[str, str]) -> bool:
    """Tell whether the Envoy behind an ext_proc stream will send an access-log entry for its request."""
    return metadata.get(COMPLETION_KEY, "").strip().lower() == ACCESS_LOG


def peer_host(peer: str) -> str:
    """Give the host of a gRPC peer: `ipv4:10.0.0.1:5000`, `ipv6:%5B::1%5D:5000`, `10.0.0.1:5000`, `unix:/path`."""
    text = unquote(peer)
    for scheme in ("ipv4:", "ipv6:"):
        text = text.removeprefix(scheme)
    if text.startswith("unix"):
        return text
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0] if text.count(":") == 1 else text


class OpenStreams:
    """How many streams of a kind each Envoy has open here, and since when it has none after having had some."""

    def __init__(self) -> None:
        """Start with no stream."""
        self._open: dict[str, int] = {}
        self._closed_at: dict[str, float] = {}

    def opened(self, node: str) -> None:
        """A stream of `node` began."""
        self._open[node] = self._open.get(node, 0) + 1
        self._closed_at.pop(node, None)

    def closed(self, node: str, now: float) -> None:
        """A stream of `node`, told of by `opened`, ended."""
        left = self._open[node] - 1
        if left:
            self._open[node] = left
        else:
            del self._open[node]
            self._closed_at[node] = now

    def has(self, node: str) -> bool:
        """Tell whether `node` has a stream open."""
        return node in self._open

    def gone(self, before: float) -> Iterator[str]:
        """Give the nodes whose last stream closed at `before` or earlier and that opened none since."""
        return (node for node, at in self._closed_at.items() if at <= before)

    def forget(self, before: float) -> None:
        """Forget nodes that have been gone since `before` or earlier."""
        for node in list(self.gone(before)):
            del self._closed_at[node]
