"""`grpc.health.v1.Health`: who asks is told whether the picker serves; who watches is told at once when that changes.

Readiness itself is decided elsewhere: a function handed in says why the picker is not ready. This module adds the
draining, and gives the answers the names under which the reference and Envoy ask.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from epp.methods import RpcError
from epp.pb.health_pb2 import HealthCheckRequest, HealthCheckResponse

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from epp.methods import Metadata, Table

SERVICE = "/grpc.health.v1.Health/"
CHECK, WATCH = SERVICE + "Check", SERVICE + "Watch"
LIVENESS = "liveness"
#: The names that follow readiness. The last is asked for by the conformance manifests of the inference extension.
READINESS = ("", "readiness", "envoy.service.ext_proc.v3.ExternalProcessor", "inference-extension")
DRAINING = "draining: the picker is stopping"

_INVALID_ARGUMENT, _NOT_FOUND = 3, 5
_SERVING, _NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING


class Health:
    """The health service. One object answers on every port it is served on."""

    def __init__(self, why_not_ready: Callable[[], Sequence[str]] = tuple) -> None:
        """Ask `why_not_ready` for the reasons against readiness; none means ready. It must be cheap and not raise."""
        self.draining = False
        self._why_not_ready = why_not_ready
        self._own: dict[str, bool] = {LIVENESS: True}
        self._changed = asyncio.Event()
        self._closed = False

    def reasons(self) -> Sequence[str]:
        """Say why the picker is not ready; empty when it is."""
        return (DRAINING, *self._why_not_ready()) if self.draining else self._why_not_ready()

    def set(self, service: str, *, serving: bool) -> None:
        """Give `service` a state of its own, whatever readiness is."""
        self._own[service] = serving
        self.refresh()

    def drain(self) -> None:
        """Be not ready from now on; for good."""
        self.draining = True
        self.refresh()

    def refresh(self) -> None:
        """Readiness may have changed: tell those who watch. To be called whenever that may be (`pool.watch(health.refresh)`)."""
        self._changed.set()
        self._changed = asyncio.Event()

    def close(self) -> None:
        """End the streams of those who watch, so that the server can stop at once."""
        self._closed = True
        self.refresh()

    def status(self, service: str) -> int | None:
        """Give the state of `service` as the protocol numbers it; None for a name that is not known."""
        serving = self._own.get(service)
        if serving is None:
            if service not in READINESS:
                return None
            serving = not self.reasons()
        return _SERVING if serving else _NOT_SERVING

    def methods(self) -> Table:
        """Give the service's part of the method table."""
        return {CHECK: self.check, WATCH: self.watch}

    async def check(self, requests: AsyncIterator[bytes], _metadata: Metadata) -> AsyncIterator[bytes]:
        """Answer once."""
        service = await _service(requests)
        status = self.status(service)
        if status is None:
            message = f"unknown service {service[:64]!r}; known are {', '.join(map(repr, (*READINESS, *self._own)))}"
            raise RpcError(_NOT_FOUND, message)
        yield _response(status)

    async def watch(self, requests: AsyncIterator[bytes], _metadata: Metadata) -> AsyncIterator[bytes]:
        """Answer now and after each change."""
        service = await _service(requests)
        told: int | None = None
        while True:
            changed = self._changed  # before the look, so that no change is missed
            status = self.status(service)
            now = HealthCheckResponse.SERVICE_UNKNOWN if status is None else status
            if now != told:
                told = now
                yield _response(now)
            if self._closed:
                return
            await changed.wait()


async def _service(requests: AsyncIterator[bytes]) -> str:
    async for message in requests:
        try:
            return HealthCheckRequest.FromString(message).service
        except DecodeError as error:
            raise RpcError(_INVALID_ARGUMENT, "not a grpc.health.v1.HealthCheckRequest") from error
    raise RpcError(_INVALID_ARGUMENT, "no grpc.health.v1.HealthCheckRequest was sent")


def _response(status: int) -> bytes:
    return HealthCheckResponse(status=HealthCheckResponse.ServingStatus.Name(status)).SerializeToString()
