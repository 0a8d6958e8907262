"""HTTP/1.1 with no engine behind it: fixed answers at the least cost, so that a load bench measures what stands before.

Reads only what framing needs (content-length, chunked, connection) and whether the body asks for a stream. What is
malformed gets 400 and the connection is closed.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import TypeAlias, cast

#: Gives the whole answer, head included, for method, path and whether a stream is asked for.
Respond: TypeAlias = Callable[[bytes, bytes, bool], bytes]

MAX_HEAD, MAX_BODY = 64 * 1024, 64 * 1024 * 1024
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,18})[ \t]*\r\n")
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[^\r]*chunked[ \t]*\r\n")
_CLOSE = re.compile(rb"\r\nconnection:[^\r]*close")
_EXPECT = re.compile(rb"\r\nexpect:[ \t]*100-continue")
_REQUEST_LINE = re.compile(rb"([A-Z]+) (\S+) HTTP/1\.([01])\r\n")
_CHUNK_SIZE = re.compile(rb"([0-9a-fA-F]{1,15})[^\r\n]*\r\n")
_STREAM = re.compile(rb'"stream"\s*:\s*true')  # inside a string the quotes would be escaped


def response(status: str, content_type: str, body: bytes, name: str) -> bytes:
    """Compose an answer of the server called `name`."""
    head = (
        f"HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\nx-simulated-server: {name}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode("latin-1") + body


class MalformedError(Exception):
    """The bytes are not HTTP as this server reads it."""


class InstantProtocol(asyncio.Protocol):
    """One connection."""

    def __init__(self, respond: Respond, connections: set[asyncio.Transport]) -> None:
        """Answer with `respond`; be in `connections` while open."""
        self._respond = respond
        self._connections = connections
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._body_from = 0  # 0: the head is not complete
        self._length = 0
        self._chunk_at: int | None = None  # where the next chunk's size stands, None: the body is not chunked
        self._request: tuple[bytes, bytes, bool] = b"", b"", False  # method, path, whether to close after it

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name
        self._connections.add(self._transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Let the connection go."""
        if self._transport is not None:
            self._connections.discard(self._transport)
            self._transport = None
        self._buffer.clear()

    def pause_writing(self) -> None:
        """Read no more requests while the client does not read its answers."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Go on."""
        if self._transport is not None:
            self._transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        """Answer each request that `data` completes; what follows the last one of a connection is dropped."""
        if self._transport is None or self._transport.is_closing():
            return
        self._buffer += data
        try:
            while self._buffer and (transport := self._transport) and not transport.is_closing() and (end := self._complete()):
                self._answer(transport, end)
        except MalformedError as error:
            self._refuse(str(error))

    def _complete(self) -> int:
        """Give the end of the first request in the buffer, 0 while it is not all there."""
        if not self._body_from and not self._read_head():
            return 0
        if self._chunk_at is None:
            end = self._body_from + self._length
            return end if len(self._buffer) >= end else 0
        return self._read_chunks(self._chunk_at)

    def _read_head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > MAX_HEAD:
                msg = f"a head of more than {MAX_HEAD} bytes"
                raise MalformedError(msg)
            return False
        head = bytes(self._buffer[: end + 4])
        line, lower = _REQUEST_LINE.match(head), head.lower()
        if line is None:
            msg = "not an HTTP/1.1 request"
            raise MalformedError(msg)
        self._body_from = end + 4
        self._request = line[1], line[2], line[3] == b"0" or _CLOSE.search(lower) is not None
        self._chunk_at = self._body_from if _CHUNKED.search(lower) else None
        length = _LENGTH.search(lower)
        self._length = int(length[1]) if length else 0
        self._check_size(self._length)
        if _EXPECT.search(lower) and self._transport is not None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return True

    def _read_chunks(self, at: int) -> int:
        while True:
            size = _CHUNK_SIZE.match(self._buffer, at)
            if size is None:
                if len(self._buffer) - at > 256:
                    msg = "not a chunk size"
                    raise MalformedError(msg)
                return 0
            length = int(size[1], 16)
            if length == 0:
                return self._read_trailers(at)
            self._check_size(size.end() + length - self._body_from)
            if len(self._buffer) < size.end() + length + 2:
                return 0
            at = self._chunk_at = size.end() + length + 2

    def _read_trailers(self, at: int) -> int:
        self._check_size(len(self._buffer) - self._body_from)
        end = self._buffer.find(b"\r\n\r\n", at)  # without trailers the last chunk's line is followed by an empty one
        return end + 4 if end >= 0 else 0

    def _check_size(self, size: int) -> None:
        if size > MAX_BODY:
            msg = f"a body of more than {MAX_BODY} bytes"
            raise MalformedError(msg)

    def _answer(self, transport: asyncio.Transport, end: int) -> None:
        method, path, close = self._request
        stream = method == b"POST" and _STREAM.search(self._buffer, self._body_from, end) is not None
        del self._buffer[:end]
        self._body_from = 0
        transport.write(self._respond(method, path, stream))
        if close:
            transport.close()

    def _refuse(self, why: str) -> None:
        if self._transport is not None:
            body = why.encode()
            head = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-type: text/plain\r\ncontent-length: %d\r\n\r\n"
            self._transport.write(head % len(body) + body)
            self._transport.close()
        self._buffer.clear()
