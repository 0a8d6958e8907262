"""Token usage read from answers that are cut anywhere."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.api import Usage, UsageReader
from epp.requests.openai import OpenAIParser
from epp.requests.usage import TAIL, WHOLE, JsonUsage, SseUsage, reader, reader_for, token_count

USAGE = {"prompt_tokens": 7, "total_tokens": 17, "completion_tokens": 10, "prompt_tokens_details": {"cached_tokens": 4}}
READ = Usage(prompt_tokens=7, completion_tokens=10, cached_tokens=4)
RESPONSES_USAGE = {"input_tokens": 31, "output_tokens": 2, "input_tokens_details": {"cached_tokens": 16}}


def read(usage_reader: UsageReader, chunks: Iterable[bytes]) -> Usage:
    """Feed `chunks` and close."""
    for chunk in chunks:
        usage_reader.feed(chunk)
    return usage_reader.close()


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    """Cut `data` at `places`."""
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


def events(*documents: dict[str, Any] | str, end: str = "\n") -> bytes:
    """Write documents as server-sent events."""
    lines = (d if isinstance(d, str) else f"data: {json.dumps(d)}" for d in documents)
    return "".join(f"{line}{end}{end}" for line in lines).encode()


TOKEN = {"choices": [{"delta": {"content": 'the \\"usage\\": {"prompt_tokens": 99}'}}]}
CHAT_STREAM = (TOKEN, TOKEN, {"choices": [], "usage": USAGE}, "data: [DONE]")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@given(places=st.lists(st.integers(0, 10_000), max_size=12))
def test_cuts_do_not_change_the_usage_of_events(end: str, places: list[int]) -> None:
    """Any cut of the stream, with any line ends, gives the same usage."""
    stream = events(": ping", *CHAT_STREAM, end=end)
    assert read(SseUsage(), cut(stream, places)) == READ


@given(places=st.lists(st.integers(0, 10_000), max_size=12))
def test_cuts_do_not_change_the_usage_of_a_document(places: list[int]) -> None:
    """Any cut of a JSON answer gives the same usage."""
    document = json.dumps({"choices": [{"text": '"usage": {}'}], "usage": USAGE, "extra": {"usage": 1}}).encode()
    assert read(JsonUsage(), cut(document, places)) == READ


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_single_bytes(end: str) -> None:
    """One byte at a time is a cut like any other."""
    stream = events(*CHAT_STREAM, end=end)
    assert read(SseUsage(), (stream[i : i + 1] for i in range(len(stream)))) == READ


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_an_event_of_several_lines_survives_any_cut(end: bytes) -> None:
    """A line end cut in two is still one line end, not the end of the event."""
    stream = end.join([b'data: {"usage":', b'data: {"prompt_tokens":', b"data: 3}}", b"", b""])
    for place in range(len(stream)):
        assert read(SseUsage(), [stream[:place], b"", stream[place:]]) == Usage(prompt_tokens=3)


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_nothing_is_held_between_events(end: bytes) -> None:
    """When an event is over its bytes are gone, wherever the stream was cut."""
    usage_reader = SseUsage()
    for event in (b"data: {}", b": ping"):
        usage_reader.feed(event + end)
        usage_reader.feed(end)
        assert usage_reader._held == b""


@pytest.mark.parametrize(
    ("stream", "usage"),
    [
        (events(TOKEN, "data: [DONE]"), Usage()),
        (events({"usage": None}, {"usage": USAGE}, {"usage": None}), READ),
        (events({"usage": {"prompt_tokens": 1, "completion_tokens": 1}}, {"usage": USAGE}), READ),
        (events({"usage": USAGE}).rstrip(), READ),
        (b'data:{"usage":\ndata: {"prompt_tokens": 3}}\n\n', Usage(prompt_tokens=3)),
        (b'\xef\xbb\xbfdata: {"usage": {"prompt_tokens": 3}}\n\n', Usage(prompt_tokens=3)),
        (b'event: x\nid: 5\ndata: {"usage": {"prompt_tokens": 3}}\nretry: 1\n\n', Usage(prompt_tokens=3)),
        (b': {"usage": {"prompt_tokens": 3}}\n\ndata: {}\n\n', Usage()),
        (b'data: {"usage": {"prompt_tokens": 3}\n\n', Usage(prompt_tokens=3)),
        (b'data: {"usage": {"prompt_tok\n\n', Usage()),
        (
            b'event: response.created\ndata: {"type":"response.created","response":{"usage":null}}\n\n'
            + events({"type": "response.completed", "response": {"output": [], "usage": RESPONSES_USAGE}}),
            Usage(prompt_tokens=31, completion_tokens=2, cached_tokens=16),
        ),
        (events({"response": "usage", "x": '"usage"'}), Usage()),
        (b"", Usage()),
        (b"\n\n\n\n\r\r\n", Usage()),
    ],
)
def test_forms_of_event_streams(stream: bytes, usage: Usage) -> None:
    """Every form of stream that servers send, whole and byte by byte."""
    assert read(SseUsage(), [stream]) == usage
    assert read(SseUsage(), (stream[i : i + 1] for i in range(len(stream)))) == usage


@pytest.mark.parametrize(
    ("document", "usage"),
    [
        (b'{"usage": {"prompt_tokens": 5, "completion_tokens": "6"}}', Usage(5, 6)),
        (b'{"usage": {"prompt_tokens": 5.0, "prompt_tokens_details": null}}', Usage(5)),
        (b'{"usage": {"prompt_tokens": null, "input_tokens": 5, "output_tokens": 1}}', Usage(5, 1)),
        (b'{"usage": {"prompt_tokens": -5, "completion_tokens": true, "prompt_tokens_details": [1]}}', Usage()),
        (b'{"usage": {"prompt_tokens": 1e300}}', Usage()),
        (b'{"usage": [1]}', Usage()),
        (b'{"logprob": NaN, "usage": {"prompt_tokens": 5}}', Usage(5)),
        (b'{"usage": ' + b'{"usage": ' * 5000, Usage()),
        (b"\xff\x00", Usage()),
        (b"[]", Usage()),
        (b"", Usage()),
    ],
)
def test_forms_of_documents(document: bytes, usage: Usage) -> None:
    """Usage is read where it can be; nothing a server sends makes the reader fail."""
    assert read(JsonUsage(), [document]) == usage


@pytest.mark.parametrize("size", [WHOLE - 200, WHOLE - 1, WHOLE + 1, 3 * WHOLE])
@pytest.mark.parametrize("make", [JsonUsage, SseUsage])
def test_long_answers_are_not_held(make: Callable[[], JsonUsage | SseUsage], size: int) -> None:
    """Of an answer beyond the limit only its end is held, and usage is found there, however it was cut."""
    head = b"data: " if make is SseUsage else b""
    filler = b"x" * (size - 200)
    document = head + b'{"data": "' + filler + b'", "usage": ' + json.dumps(USAGE).encode() + b', "z": 1}'
    shuffle = random.Random(5)
    for step in (7_000, 16_384, 300_000, len(document)):
        usage_reader = make()
        for start in range(0, len(document), step):
            usage_reader.feed(document[start : start + step])
            assert len(usage_reader._held) <= WHOLE
        if make is SseUsage and shuffle.random() < 0.5:
            usage_reader.feed(b"\n\ndata: [DONE]\n\n")
        assert usage_reader.close() == READ


def test_long_event_does_not_hide_the_next() -> None:
    """After an event of which the beginning was dropped, the next is read as a whole again."""
    long = b"data: {" + b"x" * (2 * WHOLE) + b"}\n\n"
    for step in (50_000, len(long)):
        pieces: Sequence[bytes] = [long[i : i + step] for i in range(0, len(long), step)]
        assert read(SseUsage(), [*pieces, events({"usage": USAGE, "more": "y" * (2 * TAIL)})]) == READ


def test_readers_by_content_type() -> None:
    """Event streams and JSON have readers, whatever their parameters; the rest has none."""
    assert isinstance(reader("Text/Event-Stream;charset=utf-8"), SseUsage)
    assert isinstance(reader("application/json; charset=utf-8"), JsonUsage)
    assert isinstance(reader("application/problem+json"), JsonUsage)
    assert reader("image/png") is None
    assert reader("") is None


def test_compressed_answers_have_no_reader() -> None:
    """Usage cannot be read from compressed bytes."""
    parser = OpenAIParser()
    assert reader_for(parser, {"content-type": "application/json", "content-encoding": "gzip"}) is None
    assert isinstance(reader_for(parser, {"content-type": "application/json", "content-encoding": "identity"}), JsonUsage)
    assert reader_for(parser, {}) is None


@pytest.mark.parametrize(
    ("value", "tokens"),
    [(5, 5), (5.0, 5), ("5", 5), ("x", None), (True, None), (None, None), (-1, None), (float("nan"), None), ("inf", None)],
)
def test_token_counts(value: object, tokens: int | None) -> None:
    """A count is a whole number of tokens in any spelling, else unknown."""
    assert token_count(value) == tokens
