"""The admin HTTP server: metrics, health for probes, and the state of the picker as JSON. Shows; changes nothing.

Whoever can reach the port can read it. It shows model names, request ids and addresses, and nothing of any prompt.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web

from epp.admin.decisions import described
from epp.admin.pool import pool_state

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable, Sequence

    from epp.admin.decisions import Decision, DecisionLog
    from epp.admin.page import MetricsPage
    from epp.api import Pool

_PAGES = ("/metrics", "/healthz", "/readyz", "/api/pool", "/api/decisions")
_SHUTDOWN_SECONDS = 1.0
_BACKLOG = 128
_MOST_DECISIONS = 100  # in one answer: half a megabyte each in a large pool


class AdminServer:
    """Serves the admin pages on one address."""

    def __init__(
        self,
        *,
        page: MetricsPage,
        pool: Pool,
        decisions: DecisionLog,
        why_not_ready: Callable[[], Sequence[str]],
        tls: ssl.SSLContext | None = None,
        routes: Iterable[web.AbstractRouteDef] = (),
    ) -> None:
        """Show these parts, and `routes` besides; with TLS if there is `tls`. No reason in `why_not_ready` means ready."""
        self.port = 0
        self._page = page
        self._pool = pool
        self._decisions = decisions
        self._why_not_ready = why_not_ready
        self._tls = tls
        self._routes = tuple(routes)
        self._runner: web.AppRunner | None = None
        self._wording = asyncio.Lock()  # one answer at a time: threads take turns with the event loop

    async def start(self, address: str = "[::]:9090") -> int:
        """Listen on `address` (`host:port`, IPv6 in brackets; port 0 takes any) and give the port.

        Raises OSError, naming the address, when it cannot be had.
        """
        listener = listen(address)
        self.port = listener.getsockname()[1]
        runner = web.AppRunner(self._app(), access_log=None, shutdown_timeout=_SHUTDOWN_SECONDS)
        try:
            await runner.setup()
            await web.SockSite(runner, listener, ssl_context=self._tls).start()
        except BaseException:
            listener.close()
            await runner.cleanup()
            raise
        self._runner = runner
        return self.port

    async def stop(self) -> None:
        """Stop listening and let the last answers finish."""
        if self._runner is not None:
            runner, self._runner = self._runner, None
            await runner.cleanup()

    def _app(self) -> web.Application:
        app = web.Application()
        app.add_routes([
            web.get("/", self._index),
            web.get("/metrics", self._metrics),
            web.get("/healthz", self._alive),
            web.get("/readyz", self._ready),
            web.get("/api/pool", self._pool_state),
            web.get("/api/decisions", self._recent),
            *self._routes,
        ])  # fmt: skip
        return app

    async def _index(self, _request: web.Request) -> web.Response:
        return web.Response(text="endpoint picker\n\n" + "".join(f"{page}\n" for page in _PAGES))

    async def _metrics(self, request: web.Request) -> web.Response:
        body, content_type = await self._page.render(request.headers.get("accept", ""))
        response = web.Response(body=body, headers={"content-type": content_type})
        response.enable_compression()
        return response

    async def _alive(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _ready(self, request: web.Request) -> web.Response:
        reasons = list(self._why_not_ready())
        status = 503 if reasons else 200
        if "application/json" in request.headers.get("accept", ""):
            return _json({"ready": not reasons, "reasons": reasons}, status)
        return web.Response(text="".join(f"{reason}\n" for reason in reasons or ["ok"]), status=status)

    async def _pool_state(self, _request: web.Request) -> web.Response:
        return _json(pool_state(self._pool))

    async def _recent(self, request: web.Request) -> web.Response:
        text = request.query.get("limit", str(_MOST_DECISIONS))
        if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) <= _MOST_DECISIONS):
            return _json({"error": f"limit must be a number of decisions, 0 to {_MOST_DECISIONS}, not {text[:20]!r}"}, 400)
        found = self._decisions.recent(limit=int(text), request_id=request.query.get("request_id"))
        now = self._pool.clock()
        async with self._wording:
            body = await asyncio.to_thread(_worded, found, now)
        return web.Response(body=body, content_type="application/json")


def _worded(decisions: Sequence[Decision], now: float) -> bytes:
    """Write decisions as JSON, one after the other: encoding lets no other thread run, so each call must be short."""
    rows = b",".join(msgspec.json.encode(described(decision, now)) for decision in decisions)
    return b'{"decisions":[' + rows + b"]}"


def _json(value: Any, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), status=status, content_type="application/json")


def listen(address: str) -> socket.socket:
    """Open a listening socket on `address`. `[::]` means every address, also where IPv6 is switched off."""
    host, colon, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not (port.isascii() and port.isdecimal()) or int(port) > 65535:
        message = f"cannot listen on {address!r}: write it as host:port, such as [::]:9090 or 127.0.0.1:9090"
        raise OSError(message)
    try:
        if host in ("", "::"):
            return _everywhere(int(port))
        family = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, int(port)), family=family, backlog=_BACKLOG)
    except OSError as error:
        message = f"cannot listen on {address}: {error.strerror or error}"
        raise OSError(error.errno, message) from error


def _everywhere(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=_BACKLOG)
    return socket.create_server(("0.0.0.0", port), backlog=_BACKLOG)
