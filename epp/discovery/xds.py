"""EDS: Envoy is told the pool, so that override_host finds the picked endpoint and FailOpen has somewhere to go.

Whatever name is asked for gets the whole pool. Nothing is said before the pool is known: an empty answer would make
Envoy drop all endpoints. A stream lives as long as its client; Envoy keeps the last answer while the picker is away.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

import structlog
from google.protobuf.message import DecodeError

from epp.discovery.subscription import Heard, Subscription
from epp.pb.base_pb2 import HEALTHY, UNHEALTHY
from epp.pb.eds_pb2 import DiscoveryRequest
from epp.pb.endpoint_pb2 import ClusterLoadAssignment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping

    from epp.endpoints.pool import Pool

log = structlog.get_logger(__name__)

ENDPOINTS = "/envoy.service.endpoint.v3.EndpointDiscoveryService/StreamEndpoints"
AGGREGATED = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"


class Presence(Protocol):
    """Is told which proxies are there: a proxy keeps its stream open as long as it lives."""

    def proxy_came(self, node: str) -> None:
        """A stream of `node` began."""

    def proxy_left(self, node: str) -> None:
        """It ended."""


class EndpointDiscovery:
    """Serves the pool over EDS, alone or within ADS."""

    def __init__(
        self,
        pool: Pool,
        cluster_names: Iterable[str] = ("pool",),
        *,
        coalesce: float = 0.05,
        presence: Presence | None = None,
    ) -> None:
        """Serve `pool`; a client that names no resource gets `cluster_names`. Changes within `coalesce` s are one push."""
        self._presence = presence
        self._pool = pool
        self._cluster_names = tuple(cluster_names)
        self._coalesce = coalesce
        self._streams: set[asyncio.Event] = set()
        self._cached: dict[str, bytes] = {}
        self._cached_version = -1
        self._refused = ""  # the version whose refusal was logged
        pool.watch(self._pool_changed)

    def methods(self) -> Mapping[str, Callable[[AsyncIterator[bytes], Mapping[str, str]], AsyncIterator[bytes]]]:
        """Give the service's part of the method table."""
        return {ENDPOINTS: self.stream, AGGREGATED: self.stream}

    async def stream(self, requests: AsyncIterator[bytes], metadata: Mapping[str, str]) -> AsyncIterator[bytes]:
        """Answer one client, and push each change of the pool, until the client ends the stream."""
        changed = asyncio.Event()
        self._streams.add(changed)
        subscription = Subscription(self._cluster_names)
        peer = metadata.get(":peer", "")
        nodes: set[str] = set()
        listener = asyncio.create_task(self._listen(requests, subscription, changed, peer, nodes), name=f"eds {peer}")
        listener.add_done_callback(lambda _: changed.set())
        try:
            while True:
                await changed.wait()
                changed.clear()
                if listener.done():
                    listener.result()  # what broke the stream, if anything, is the host's to know
                    return
                answer = self._answer(subscription)
                if answer is not None:
                    yield answer
                    await asyncio.sleep(self._coalesce)
        finally:
            self._streams.discard(changed)
            listener.cancel()
            await asyncio.gather(listener, return_exceptions=True)
            if self._presence is not None:
                for node in nodes:
                    self._presence.proxy_left(node)

    async def _listen(
        self,
        requests: AsyncIterator[bytes],
        subscription: Subscription,
        changed: asyncio.Event,
        peer: str,
        nodes: set[str],
    ) -> None:
        async for raw in requests:
            try:
                request = DiscoveryRequest.FromString(raw)
            except DecodeError:
                log.warning("discovery request cannot be read and is passed over", peer=peer, size=len(raw))
                continue
            node = request.node.id
            if node and node not in nodes and self._presence is not None:
                nodes.add(node)
                self._presence.proxy_came(node)
            match subscription.hear(request):
                case Heard.ASKED:
                    changed.set()
                case Heard.REFUSED:
                    changed.set()
                    self._complain(request, peer)
                case Heard.FOREIGN:
                    log.info("only endpoints are served here", peer=peer, asked=request.type_url)
                case Heard.ACCEPTED | Heard.STALE:
                    pass

    def _complain(self, request: DiscoveryRequest, peer: str) -> None:
        version = str(self._pool.version)
        if version != self._refused:
            self._refused = version
            detail = request.error_detail.message
            log.error("proxy refused the endpoints", peer=peer, node=request.node.id, version=version, error=detail)

    def _answer(self, subscription: Subscription) -> bytes | None:
        if not self._pool.synced:
            return None
        version = self._pool.version
        if version != self._cached_version:
            self._cached, self._cached_version = {}, version
        for name in subscription.names - self._cached.keys():
            self._cached[name] = self._assignment(name).SerializeToString(deterministic=True)
        return subscription.answer(str(version), self._cached)

    def _assignment(self, cluster: str) -> ClusterLoadAssignment:
        assignment = ClusterLoadAssignment(cluster_name=cluster)
        if not self._pool.endpoints:
            return assignment
        unreachable = self._pool.columns["unreachable"] > 0
        if unreachable.all():
            unreachable = ~unreachable  # the scraper may be wrong; somebody has to get the requests
        locality = assignment.endpoints.add()
        for endpoint, down in zip(self._pool.endpoints, unreachable, strict=True):
            member = locality.lb_endpoints.add(health_status=UNHEALTHY if down else HEALTHY)
            socket = member.endpoint.address.socket_address
            socket.address, socket.port_value = endpoint.spec.address, endpoint.spec.port
        return assignment

    def _pool_changed(self) -> None:
        for changed in self._streams:
            changed.set()
