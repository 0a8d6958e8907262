"""`AccessLogService/StreamAccessLogs`: reads Envoy's access log until its stream ends. What entries mean is the registry's.

An Envoy opens one stream for each of its threads, with its first entry, and keeps it. A message that cannot be read is
passed over: ending the stream would only lose more.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog
from google.protobuf.message import DecodeError

from epp.feedback.access_log import translate
from epp.feedback.nodes import PEER_KEY, peer_host
from epp.pb.access_log_pb2 import StreamAccessLogsMessage, StreamAccessLogsResponse

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from epp.feedback.registry import Exchanges
    from epp.methods import Metadata, Table

log = structlog.get_logger(__name__)

METHOD = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs"
_AT_ONCE = 32  # entries handled (about a millisecond) before others get their turn


class AccessLogs:
    """The access-log service. One `stream` call is one stream of one Envoy."""

    def __init__(self, exchanges: Exchanges) -> None:
        """Hand every entry to `exchanges`."""
        self._exchanges = exchanges

    def methods(self) -> Table:
        """Give the service's part of the method table."""
        return {METHOD: self.stream}

    async def stream(self, requests: AsyncIterator[bytes], metadata: Metadata) -> AsyncIterator[bytes]:
        """Read entries until the stream ends, then answer once, as the protocol wants."""
        # Its host names this Envoy too: ext_proc streams that carry no node name are known by their host.
        nodes = [peer_host(metadata.get(PEER_KEY, ""))]
        self._exchanges.log_opened(nodes[0])
        unreadable = 0
        try:
            async for raw in requests:
                try:
                    message = StreamAccessLogsMessage.FromString(raw)
                except DecodeError:
                    unreadable += 1
                    if unreadable == 1:
                        log.warning("access-log message cannot be read and is passed over", node=nodes[-1], size=len(raw))
                    continue
                node = message.identifier.node.id
                if node and node not in nodes:
                    nodes.append(node)
                    self._exchanges.log_opened(node)
                await self._take(message)
        finally:
            for node in nodes:
                self._exchanges.log_closed(node)
        yield StreamAccessLogsResponse().SerializeToString()

    async def _take(self, message: StreamAccessLogsMessage) -> None:
        for number, entry in enumerate(message.http_logs.log_entry, start=1):
            self._exchanges.logged(translate(entry))
            if number % _AT_ONCE == 0:
                await asyncio.sleep(0)
