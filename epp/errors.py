"""The few errors of the picker. Each knows what the client gets; the edge (extproc) only translates.

A `Rejection` is an answer: HTTP status, drop reason (the header `x-llm-d-request-dropped-reason`) and a JSON body
in OpenAI's error form. A `ConfigError` stops the start, or keeps the last good configuration, and names the place.
This module knows nothing of gRPC or Envoy.
"""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import ClassVar


class Rejection(Exception):  # noqa: N818 - an answer, not an error of ours
    """A request that is answered by the picker itself, not by a model server.

    `status` is the HTTP status, `reason` the drop reason or None, `retry_after` seconds for the `retry-after` header.
    Plugins (admitters) raise this with a status of their own: `Rejection("quota spent", status=429)`.
    """

    status: int = 500
    reason: str | None = None
    kind: ClassVar[str] = "internal_error"
    retry_after: int | None = None

    def __init__(self, message: str, *, status: int | None = None, reason: str | None = None) -> None:
        """Take the `message` for the client: it names what to change and never contains the prompt."""
        super().__init__(message)
        self.message = message
        if status is not None:
            if not 400 <= status <= 599:  # Envoy would make 200 of 0
                told = f"a rejection's status must be 400 to 599, not {status!r}"
                raise ValueError(told)
            self.status = int(status)
        if reason is not None:
            if not (reason.isascii() and reason.isprintable()):  # it becomes a header
                told = f"a rejection's reason must be printable ASCII, not {reason!r}"
                raise ValueError(told)
            self.reason = reason

    def body(self) -> bytes:
        """Give the JSON body: `{"error": {"message", "type", "param", "code"}}`."""
        code = HTTPStatus(self.status).phrase.lower().replace(" ", "_") if self.status in _STATUSES else None
        error = {"message": self.message, "type": self.kind, "param": None, "code": self.reason or code}
        return json.dumps({"error": error}).encode()


_STATUSES = frozenset(int(status) for status in HTTPStatus)


class BadRequest(Rejection):
    """The client's request cannot be read or lacks what routing needs."""

    status = 400
    kind = "invalid_request_error"


class BodyTooLarge(Rejection):
    """The request body exceeds the configured limit."""

    status = 413
    kind = "invalid_request_error"


class Saturated(Rejection):
    """Endpoints exist, but none may take this request now."""

    status = 429
    reason = "rejected-saturated"
    kind = "rate_limit_error"
    retry_after = 1


class Overloaded(Rejection):
    """The picker itself has no room for the request now."""

    status = 503
    reason = "rejected-saturated"
    kind = "service_unavailable_error"
    retry_after = 1


class NoEndpoints(Rejection):
    """The pool, or the part of it this request may use, has no ready endpoint."""

    status = 503
    reason = "rejected-no-endpoints"
    kind = "service_unavailable_error"
    retry_after = 1


class ConfigError(Exception):
    """A configuration that cannot be used: names file, line and key, and what to change."""

    def __init__(self, message: str, *, file: str | None = None, line: int | None = None, key: str | None = None) -> None:
        """Take the `message` and, where known, the `file`, the 1-based `line` and the dotted `key`."""
        self.message, self.file, self.line, self.key = message, file, line, key
        place = f"{file}:{line}" if file and line else file or ""
        super().__init__(": ".join(part for part in (place, key, message) if part))
