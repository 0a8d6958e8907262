"""The fixed answers of an instant server, composed once, and the three pages a picker or an operator looks at."""

from __future__ import annotations

from typing import TYPE_CHECKING

from epp.simulator.answers import Spent, writer
from epp.simulator.calls import Call, Refusal
from epp.simulator.handlers import INFERENCE, METRICS_TYPE, models_document
from epp.simulator.instant import response

if TYPE_CHECKING:
    from epp.simulator.server import SimulatedServer


class InstantAnswers:
    """Answers every inference call alike: one token, whole or as a stream."""

    def __init__(self, server: SimulatedServer) -> None:
        """Compose the answers of `server`."""
        self._server = server
        self._fixed = {(api.encode(), stream): self._compose(api, stream=stream) for api in INFERENCE for stream in (False, True)}
        self._fault = response(
            "500 Internal Server Error", "application/json", Refusal(500, "injected fault").body(), server.name
        )

    def respond(self, method: bytes, path: bytes, stream: bool) -> bytes:  # noqa: FBT001 - called for each request, by position
        """Give the answer to one request."""
        if method == b"POST":
            fixed = self._fixed.get((path, stream))
            if fixed is not None:
                if self._server.failing():
                    return self._fault
                self._server.page.instant_answers += 1
                return fixed
        return self._page(method, path.partition(b"?")[0])

    def _page(self, method: bytes, path: bytes) -> bytes:
        name = self._server.name
        if method == b"GET":
            if path == b"/metrics":
                return response("200 OK", METRICS_TYPE, self._server.metrics(), name)
            if path == b"/health":
                return response("200 OK", "text/plain", b"", name)
            if path == b"/v1/models":
                return response("200 OK", "application/json", models_document(self._server), name)
        return response("404 Not Found", "application/json", Refusal(404, "Not Found").body(), name)

    def _compose(self, api: str, *, stream: bool) -> bytes:
        call = Call(api, self._server.options.model, (b"instant",), stream=stream, include_usage=True)
        answer, spent = writer(call, "instant", self._server.created, 1), Spent(prompt=1, completion=1, cached=0)
        if stream:
            body = answer.begin() + answer.tokens(0, 0, 1) + answer.end(spent)
            return response("200 OK", "text/event-stream; charset=utf-8", body, self._server.name)
        return response("200 OK", "application/json", answer.whole(spent), self._server.name)
