from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.simulator.calls import CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES, Call, Received, Refusal, read_call

HELLO = [{"role": "user", "content": "hello"}]
APIS = (CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES)


def read(api: str, **fields: Any) -> Call:
    """Read a body with these fields for model `m`."""
    return read_call(api, json.dumps({"model": "m", **fields}).encode())


def test_limits_of_each_api_are_honoured() -> None:
    """Each API names the answer's limit in its own way; chat prefers the newer name."""
    assert read(CHAT, messages=HELLO, max_tokens=3).max_tokens == 3
    assert read(CHAT, messages=HELLO, max_tokens=3, max_completion_tokens=5).max_tokens == 5
    assert read(COMPLETIONS, prompt="x", max_tokens=3).max_tokens == 3
    assert read(RESPONSES, input="x", max_output_tokens=3).max_tokens == 3
    assert read(EMBEDDINGS, input="x", max_tokens=3).max_tokens == 0
    assert read(CHAT, messages=HELLO).max_tokens is None


def test_streaming_and_usage_are_asked_for() -> None:
    """Only a literal true streams, and an embedding never does."""
    call = read(CHAT, messages=HELLO, stream=True, stream_options={"include_usage": True})
    assert (call.stream, call.include_usage) == (True, True)
    assert not read(CHAT, messages=HELLO, stream=False, stream_options=None).stream
    assert not read(EMBEDDINGS, input="x", stream=True).stream


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("abc", (b"abc",)),
        (["abc", "d"], (b"abc", b"d")),
        ([1, 2], (b"\1\0\0\0\2\0\0\0",)),
        ([[1], [2]], (b"\1\0\0\0", b"\2\0\0\0")),
    ],
)
def test_prompts_come_in_four_forms(prompt: Any, prompts: tuple[bytes, ...]) -> None:
    """Text, texts, token ids, lists of token ids; an id is one token."""
    assert read(COMPLETIONS, prompt=prompt).prompts == prompts
    assert read(EMBEDDINGS, input=prompt).prompts == prompts


def test_n_answers_take_each_prompt_n_times() -> None:
    """Every answer is a sequence of its own."""
    call = read(COMPLETIONS, prompt=["a", "b"], n=2)
    assert (call.n, call.prompts) == (2, (b"a", b"a", b"b", b"b"))


def test_responses_input_becomes_a_chat() -> None:
    """A string is a user's message; instructions come first; an item without content is kept by its JSON."""
    assert read(RESPONSES, input="hello").prompts == read(CHAT, messages=HELLO).prompts
    assert read(RESPONSES, input=HELLO).prompts == read(CHAT, messages=HELLO).prompts
    with_system = [{"role": "system", "content": "be brief"}, *HELLO]
    assert read(RESPONSES, input="hello", instructions="be brief").prompts == read(CHAT, messages=with_system).prompts
    assert b'"42"' in read(RESPONSES, input=[{"type": "function_call_output", "output": "42"}]).prompts[0]


@pytest.mark.parametrize(
    ("api", "fields", "param"),
    [
        (CHAT, {"messages": []}, "messages"),
        (CHAT, {"messages": ["hello"]}, "messages"),
        (CHAT, {"messages": HELLO, "max_tokens": 0}, "max_tokens"),
        (CHAT, {"messages": HELLO, "max_tokens": "5"}, "max_tokens"),
        (CHAT, {"messages": HELLO, "max_tokens": True}, "max_tokens"),
        (CHAT, {"messages": HELLO, "n": 1_000}, "n"),
        (CHAT, {"messages": HELLO, "model": 7}, "model"),
        (COMPLETIONS, {}, "prompt"),
        (COMPLETIONS, {"prompt": [1, "a"]}, "prompt"),
        (COMPLETIONS, {"prompt": [-1]}, "prompt"),
        (EMBEDDINGS, {"input": []}, "input"),
        (RESPONSES, {"input": None}, "input"),
    ],
)
def test_what_cannot_be_served_is_refused_by_name(api: str, fields: dict[str, Any], param: str) -> None:
    """The refusal is a 400 that names the parameter."""
    with pytest.raises(Refusal) as caught:
        read(api, **fields)
    assert (caught.value.status, caught.value.param) == (400, param)


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"\xff", b'"x"', b"[" * 100_000, b'{"model": "\xff"}'])
def test_a_body_that_is_not_an_object_is_refused(body: bytes) -> None:
    """In OpenAI's error form."""
    with pytest.raises(Refusal) as caught:
        read_call(CHAT, body)
    error = json.loads(caught.value.body())["error"]
    assert (error["type"], error["code"]) == ("BadRequestError", 400)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(
    ["messages", "prompt", "input", "tools", "n", "stream_options", "max_tokens", "instructions", "cache_salt"]
)


@given(st.sampled_from(APIS), st.dictionaries(FIELDS, JSON | st.just(HELLO)))
def test_strange_bodies_are_read_or_refused(api: str, fields: dict[str, Any]) -> None:
    """No JSON object makes the reader fail in any other way."""
    try:
        prompts = read(api, **fields).prompts
        status = 200
    except Refusal as refusal:
        prompts, status = (), refusal.status
    assert status in (200, 400)
    assert all(isinstance(prompt, bytes) for prompt in prompts)
    assert (status == 200) == bool(prompts)


def test_a_record_knows_length_and_digest() -> None:
    """So that a test can compare large bodies without holding them."""
    received = Received("POST", CHAT, {}, b"abc")
    assert received.length == 3
    assert received.sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
