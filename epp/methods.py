"""The methods the picker serves, as one table: path → byte-stream function. Whatever hosts it decides nothing.

A method gets the raw messages of a stream and its metadata (names in lower case, plus `:peer`, the caller's address), and
yields raw messages. When the caller goes away the method is cancelled; if it was waiting for a message, `requests` may just
end instead, as after a half-close. So cleaning up belongs in `finally`, and an end proves nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from typing import TypeAlias

Metadata: TypeAlias = Mapping[str, str]
Method: TypeAlias = Callable[[AsyncIterator[bytes], Metadata], AsyncIterator[bytes]]
Table: TypeAlias = Mapping[str, Method]  # "/package.Service/Method" → method


class RpcError(Exception):
    """Ends a stream with a gRPC status other than OK. `code` is the number of the gRPC specification."""

    def __init__(self, code: int, message: str) -> None:
        """Take the status `code` and a `message` for the caller."""
        super().__init__(message)
        self.code, self.message = code, message
