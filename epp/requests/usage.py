"""Reads token usage from OpenAI-style answers as they stream by: JSON and server-sent events, cut anywhere.

Cheap for what cannot carry usage, bounded in what it holds, and independent of where the stream was cut. Never raises on
what a model server sends: usage that cannot be read is unknown.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import msgspec

from epp.api import Usage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from epp.api import Parser, UsageReader

WHOLE = 1024 * 1024  # an answer, or one event, up to this size is read as the JSON document it is
TAIL = 64 * 1024  # of a longer one only so much of its end is kept; usage stands there

_NEEDLE = b'"usage"'
# Inside a JSON string the quotes would be escaped, so this matches a key and nothing else.
_USAGE_KEY = re.compile(r'(?<!\\)"usage"\s*:\s*(?=\{)')
_LARGEST = 2**53
_TRIES = 8  # a document with more usage objects at its end than this is not worth the time


class _Nested(msgspec.Struct):
    usage: Any = None


class _Document(msgspec.Struct):
    """An answer or an event: usage at its top, or in the `response` of the Responses API's events."""

    usage: Any = None
    response: msgspec.Raw = msgspec.Raw(b"{}")


_document = msgspec.json.Decoder(_Document)
_nested = msgspec.json.Decoder(_Nested)
_objects = json.JSONDecoder()


def reader(content_type: str) -> UsageReader | None:
    """Give a reader for an answer of `content_type`; None when it can carry no usage."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "text/event-stream":
        return SseUsage()
    if kind == "application/json" or kind.endswith("+json"):
        return JsonUsage()
    return None


def reader_for(parser: Parser, headers: Mapping[str, str]) -> UsageReader | None:
    """Give the parser's reader for an answer with these `headers` (names in lower case); None for a compressed answer."""
    if headers.get("content-encoding", "").strip().lower() not in {"", "identity"}:
        return None
    return parser.usage(headers.get("content-type", ""))


class JsonUsage:
    """Usage of an answer that is one JSON document. Nothing is parsed before the end."""

    def __init__(self) -> None:
        """Start with nothing read."""
        self._held = bytearray()
        self._seen = 0

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the answer."""
        self._seen += len(chunk)
        self._held += chunk
        if len(self._held) > WHOLE:
            del self._held[:-TAIL]

    def close(self) -> Usage:
        """The answer is over: give what was found."""
        held, self._held = bytes(self._held), bytearray()
        return _read_document(held, whole=self._seen <= WHOLE) or Usage()


class SseUsage:
    """Usage of an answer of server-sent events: that of the last event which has any.

    Line ends are unified as they come; what is held is the event that has not ended yet.
    """

    def __init__(self) -> None:
        """Start with nothing read."""
        self._usage = Usage()
        self._held = bytearray()
        self._dropped = 0  # bytes of the event that has not ended yet that are no longer held
        self._after_cr = False

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the answer."""
        if self._after_cr or b"\r" in chunk:
            chunk = self._plain_line_ends(chunk)
        held = self._held
        seam = max(0, len(held) - 1)
        held += chunk
        end = held.rfind(b"\n\n", seam)
        if end >= 0:
            if held.find(_NEEDLE, 0, end) >= 0:
                self._events(bytes(held[:end]))
            del held[: end + 2]
            self._dropped = 0
        if len(held) > WHOLE:
            self._dropped += len(held) - TAIL
            del held[:-TAIL]

    def close(self) -> Usage:
        """The answer is over: an event that lacks its blank line counts too."""
        held, self._held = bytes(self._held), bytearray()
        if _NEEDLE in held:
            self._events(held)
        return self._usage

    def _plain_line_ends(self, chunk: bytes) -> bytes:
        if self._after_cr and chunk.startswith(b"\n"):
            chunk = chunk[1:]  # the other half of the \r\n that the last chunk ended in
            if not chunk:
                self._after_cr = False
                return chunk
        elif not chunk:
            return chunk
        self._after_cr = chunk.endswith(b"\r")
        return chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _events(self, events: bytes) -> None:
        """Read complete events; only of the first can a part be missing."""
        dropped = self._dropped
        for event in events.split(b"\n\n"):
            if _NEEDLE in event:
                whole = len(event) + dropped <= WHOLE
                self._usage = _read_document(_data(event) if whole else event, whole=whole) or self._usage
            dropped = 0


def _data(event: bytes) -> bytes:
    """Give an event's data: its `data:` lines, joined. Comments and other fields fall away."""
    lines = (line.removeprefix(b"\xef\xbb\xbf") for line in event.split(b"\n"))
    return b"\n".join(line[5:].removeprefix(b" ") for line in lines if line.startswith(b"data:"))


def _read_document(document: bytes, *, whole: bool) -> Usage | None:
    if whole:
        try:
            found = _document.decode(document)
            return _usage(found.usage) or _usage(_nested.decode(found.response).usage)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            pass  # cut off, or not quite JSON (NaN): the end may still tell
    return _search(document[-TAIL:])


def _search(tail: bytes) -> Usage | None:
    """Find the last usage object in the end of a document whose beginning is not there."""
    text = tail.decode("utf-8", errors="replace")
    for found in reversed(list(_USAGE_KEY.finditer(text))[-_TRIES:]):
        try:
            value, _ = _objects.raw_decode(text, found.end())
        except (ValueError, RecursionError):
            continue
        usage = _usage(value)
        if usage is not None:
            return usage
    return None


def _usage(value: Any) -> Usage | None:
    if not isinstance(value, dict):
        return None
    details = value.get("prompt_tokens_details") or value.get("input_tokens_details")
    usage = Usage(
        prompt_tokens=_first_number(value, "prompt_tokens", "input_tokens"),
        completion_tokens=_first_number(value, "completion_tokens", "output_tokens"),
        cached_tokens=token_count(details.get("cached_tokens")) if isinstance(details, dict) else None,
    )
    return usage if usage != Usage() else None


def _first_number(value: dict[str, Any], *names: str) -> int | None:
    for name in names:
        number = token_count(value.get(name))
        if number is not None:
            return number
    return None


def token_count(value: object) -> int | None:
    """Give a number of tokens that came as a number, or as text from servers that write it so; None for anything else."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _LARGEST:
        return None
    return int(value)
