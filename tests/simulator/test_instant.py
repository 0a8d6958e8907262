from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.simulator.instant import MAX_BODY, MAX_HEAD, InstantProtocol, response

JSON = b'{"model":"m","stream": true}'
LENGTH = b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(JSON) + JSON
CHUNKED = (
    b"POST /b HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n" + JSON[:5] + b"\r\n17;x=y\r\n" + JSON[5:] + b"\r\n0\r\n\r\n"
)
TRAILERS = b"POST /c HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nx-end: 1\r\n\r\n"
BARE = b"GET /d HTTP/1.1\r\n\r\n"
EXPECTED = [(b"POST", b"/a", True), (b"POST", b"/b", True), (b"POST", b"/c", False), (b"GET", b"/d", False)]


class FakeTransport(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        """Start open and empty."""
        super().__init__()
        self.written = b""
        self.closed = False
        self.reading = True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Keep `data`."""
        self.written += data

    def close(self) -> None:
        """Close."""
        self.closed = True

    def is_closing(self) -> bool:
        """Say whether it was closed."""
        return self.closed

    def pause_reading(self) -> None:
        """Stop."""
        self.reading = False

    def resume_reading(self) -> None:
        """Go on."""
        self.reading = True


def connection() -> tuple[Callable[[bytes], None], FakeTransport, list[tuple[bytes, bytes, bool]], InstantProtocol]:
    """Open a connection: how to send, where answers arrive, which requests were seen, and the protocol."""
    seen: list[tuple[bytes, bytes, bool]] = []

    def respond(method: bytes, path: bytes, stream: bool) -> bytes:
        seen.append((method, path, stream))
        return b"<answer>"

    transport, connections = FakeTransport(), set[asyncio.Transport]()
    protocol = InstantProtocol(respond, connections)
    protocol.connection_made(transport)
    assert connections == {transport}
    return protocol.data_received, transport, seen, protocol


@given(st.lists(st.integers(0, len(LENGTH + CHUNKED + TRAILERS + BARE)), max_size=30))
def test_any_cut_of_the_bytes_gives_the_same_requests(cuts: list[int]) -> None:
    """Requests with a length, in chunks, with trailers or without a body, one after the other, cut anywhere."""
    send, transport, seen, _ = connection()
    data = LENGTH + CHUNKED + TRAILERS + BARE
    edges = [0, *sorted(cuts), len(data)]
    for start, end in pairwise(edges):
        send(data[start:end])
    assert seen == EXPECTED
    assert transport.written == b"<answer>" * 4
    assert not transport.closed


def test_a_stream_is_asked_for_by_the_body_not_by_the_prompt() -> None:
    """Inside a JSON string the quotes are escaped."""
    send, _, seen, _ = connection()
    body = b'{"prompt":"\\"stream\\": true"}'
    send(b"POST /a HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
    assert seen == [(b"POST", b"/a", False)]


@pytest.mark.parametrize("head", [b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n", b"GET / HTTP/1.0\r\n\r\n"])
def test_a_client_that_wants_the_connection_closed_gets_that(head: bytes) -> None:
    """After the answer, and what follows is not read."""
    send, transport, seen, _ = connection()
    send(head + BARE)
    assert transport.closed
    assert len(seen) == 1


def test_a_client_that_waits_for_permission_gets_it() -> None:
    """Or a large upload would hang for a second."""
    send, transport, _, _ = connection()
    send(b"POST / HTTP/1.1\r\nExpect: 100-continue\r\ncontent-length: 2\r\n\r\n")
    assert transport.written == b"HTTP/1.1 100 Continue\r\n\r\n"
    send(b"{}")
    assert transport.written.endswith(b"<answer>")


@pytest.mark.parametrize(
    "data",
    [
        b"nonsense\r\n\r\n",
        b"\x16\x03\x01" * 10 + b"\r\n\r\n",
        b"x" * (MAX_HEAD + 1),
        b"POST / HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % (MAX_BODY + 1),
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n" % (MAX_BODY + 1),
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n" + b"z" * 300,
    ],
)
def test_what_is_not_http_is_refused_and_closed(data: bytes) -> None:
    """With a 400, once, and nothing more is read."""
    send, transport, seen, _ = connection()
    send(data)
    send(data)
    assert transport.written.startswith(b"HTTP/1.1 400 ")
    assert transport.written.count(b"HTTP/1.1 400") == 1
    assert transport.closed
    assert not seen


@given(st.lists(st.binary(max_size=80), max_size=8))
def test_no_bytes_make_it_fail(chunks: list[bytes]) -> None:
    """Whatever arrives is answered, refused or waited for."""
    send, transport, _, _ = connection()
    for chunk in chunks:
        send(chunk)
    assert transport.closed or not transport.written or transport.written.startswith((b"<answer>", b"HTTP/1.1 100"))


def test_a_client_that_does_not_read_is_not_read_from() -> None:
    """Answers do not pile up without bound."""
    _, transport, _, protocol = connection()
    protocol.pause_writing()
    assert not transport.reading
    protocol.resume_writing()
    assert transport.reading


def test_an_answer_carries_length_and_name() -> None:
    """What a client needs to frame it, and who it was."""
    head, _, body = response("200 OK", "text/plain", b"abc", "one").partition(b"\r\n\r\n")
    assert body == b"abc"
    assert b"\r\ncontent-length: 3" in head
    assert b"\r\nx-simulated-server: one" in head
