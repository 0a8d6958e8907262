from __future__ import annotations

import json
from typing import Any

import pytest

from epp.simulator.answers import Spent, Writer, writer
from epp.simulator.calls import CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES, Call

SPENT = Spent(prompt=10, completion=4, cached=8)


def written(api: str, *, usage: bool = True, prompts: tuple[bytes, ...] = (b"p",)) -> Writer:
    """Give a writer of four tokens."""
    return writer(Call(api, "m", prompts, max_tokens=4, include_usage=usage), "id-1", 1_000, 4)


def events(answer: Writer, choices: int = 1) -> list[tuple[str | None, Any]]:
    """Write the whole stream token by token, and read it as a client does: (event, data)."""
    stream = answer.begin().decode()
    stream += "".join(answer.tokens(index, at, at + 1).decode() for at in range(4) for index in range(choices))
    stream += answer.end(SPENT).decode()
    assert stream.endswith("\n\n")
    read = []
    for block in stream.removesuffix("\n\n").split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.split("\n"))
        data = lines["data"]
        read.append((lines.get("event"), data if data == "[DONE]" else json.loads(data)))
    return read


def test_a_chat_stream_says_what_the_whole_answer_says() -> None:
    """Role first, one event a token, finish reason on the last, usage without choices, then DONE."""
    whole = json.loads(written(CHAT).whole(SPENT))
    stream = [data for _, data in events(written(CHAT))]
    assert stream[-1] == "[DONE]"
    assert stream[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in stream[:-2]) == whole["choices"][0]["message"]["content"]
    assert [chunk["choices"][0]["finish_reason"] for chunk in stream[:-2]] == [None] * 4 + ["length"]
    assert (stream[-2]["choices"], stream[-2]["usage"]) == ([], whole["usage"])
    assert {chunk["object"] for chunk in stream[:-1]} == {"chat.completion.chunk"}
    assert whole["object"] == "chat.completion"


def test_usage_counts_what_was_spent() -> None:
    """With the cached part of the prompt, as vLLM gives it."""
    assert json.loads(written(CHAT).whole(SPENT))["usage"] == {
        "prompt_tokens": 10,
        "total_tokens": 14,
        "completion_tokens": 4,
        "prompt_tokens_details": {"cached_tokens": 8},
    }


def test_usage_is_streamed_only_when_asked_for() -> None:
    """Without include_usage no event carries it."""
    stream = [data for _, data in events(written(CHAT, usage=False))]
    assert all("usage" not in data for data in stream[:-1])
    assert all(data["choices"] for data in stream[:-1])


def test_completions_stream_text() -> None:
    """Text instead of deltas, no opening event, each choice under its index."""
    answer = written(COMPLETIONS, prompts=(b"p", b"q"))
    stream = [data for _, data in events(answer, choices=2)]
    whole = json.loads(answer.whole(SPENT))
    for index in (0, 1):
        texts = [chunk["choices"][0]["text"] for chunk in stream[:-2] if chunk["choices"][0]["index"] == index]
        assert len(texts) == 4
        assert "".join(texts) == whole["choices"][index]["text"]
    assert whole["object"] == stream[0]["object"] == "text_completion"


def test_a_responses_stream_is_named_numbered_and_completed() -> None:
    """Event names equal types, numbers count up, and response.completed carries text and usage."""
    stream = events(written(RESPONSES))
    assert [name for name, _ in stream] == [data["type"] for _, data in stream]
    assert [data["sequence_number"] for _, data in stream] == list(range(len(stream)))
    assert stream[0][0] == "response.created"
    deltas = [data["delta"] for name, data in stream if name == "response.output_text.delta"]
    name, last = stream[-1]
    assert name == "response.completed"
    assert len(deltas) == 4
    assert last["response"]["output"][0]["content"][0]["text"] == "".join(deltas)
    assert last["response"]["usage"]["input_tokens_details"] == {"cached_tokens": 8}
    assert last["response"] == json.loads(written(RESPONSES).whole(SPENT))


def test_an_embedding_is_a_unit_vector_for_each_input() -> None:
    """Equal inputs give equal vectors, others others."""
    data = json.loads(written(EMBEDDINGS, prompts=(b"a", b"b", b"a")).whole(SPENT))["data"]
    assert data[0]["embedding"] == data[2]["embedding"] != data[1]["embedding"]
    assert sum(value * value for value in data[0]["embedding"]) == pytest.approx(1, abs=1e-3)


def test_an_answer_without_a_limit_stops_by_itself() -> None:
    """The finish reason tells the two apart."""
    answer = writer(Call(CHAT, "m", (b"p",)), "id-1", 1_000, 4)
    assert json.loads(answer.whole(SPENT))["choices"][0]["finish_reason"] == "stop"
