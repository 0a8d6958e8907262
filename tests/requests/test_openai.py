"""The OpenAI parser: what routing reads of a body, and what is refused with which words."""

from __future__ import annotations

import json
from array import array
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.api import Parsed, Parser
from epp.errors import BadRequest
from epp.requests.openai import OpenAIParser
from epp.requests.stretch import MAX_ID_TEXT
from epp.requests.usage import JsonUsage, SseUsage

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


def parse(path: str, body: bytes | dict[str, Any], **headers: str) -> Parsed:
    """Parse `body` as it would come over `path`."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return OpenAIParser().parse(path, headers, data)


def refusal(path: str, body: bytes | dict[str, Any], **headers: str) -> str:
    """Give the words with which `body` is refused."""
    with pytest.raises(BadRequest) as refused:
        parse(path, body, **headers)
    assert refused.value.status == 400
    return refused.value.message


def test_chat_request_is_read() -> None:
    """Model, streaming, output limit, salt and prompt come out of one chat body; unknown fields are ignored."""
    body = (
        b'{"vendor_extra": {"a": [1, 2]}, "messages" : [ {"role":"user","content":"hi"} ] , "model":"m\\u00e9\\/1",'
        b' "stream":true, "max_tokens": 5, "max_completion_tokens":7, "cache_salt":"s\\n", "tools": [{"t":1}]}'
    )
    parsed = parse(CHAT, body)
    prompt = b'[{"t":1}][ {"role":"user","content":"hi"}'
    assert parsed == Parsed(
        model="mé/1", stream=True, prompt=prompt, prompt_tokens=-(-len(prompt) // 4), max_tokens=7, cache_salt="s\n"
    )


def test_it_is_a_parser() -> None:
    """The class has the parser's verbs, and its own paths among its claims."""
    parser = OpenAIParser()
    assert isinstance(parser, Parser)
    assert {"chat/completions", "completions", "embeddings", "responses", "conversations"} < set(parser.paths)
    assert {"chat/completions/render", "completions/render", "images/generations"} < set(parser.paths)
    assert isinstance(parser.usage("text/event-stream; charset=utf-8"), SseUsage)
    assert isinstance(parser.usage("application/json"), JsonUsage)


@pytest.mark.parametrize(
    ("path", "field", "value", "prompt", "tokens"),
    [
        (COMPLETIONS, "prompt", "hello you", b"hello you", 3),
        (COMPLETIONS, "prompt", "", b"", 1),
        (COMPLETIONS, "prompt", ["hello", "you"], b'hello", "you"', 4),
        (COMPLETIONS, "prompt", [1, 2, 70000], array("I", [1, 2, 70000]).tobytes(), 3),
        (COMPLETIONS, "prompt", [[1, 2], [3]], array("I", [1, 2, 3]).tobytes(), 3),
        (COMPLETIONS, "prompt", [1, "x"], b'[1, "x"', 2),
        (COMPLETIONS, "prompt", [1, 2**40], b"[1, 1099511627776", 5),
        (COMPLETIONS, "prompt", [1, -1], b"[1, -1", 2),
        ("/v1/completions/render", "prompt", "hello", b"hello", 2),
        ("/v1/embeddings", "input", ["a", "b"], b'a", "b"', 2),
        ("/v1/embeddings", "input", [5, 6], array("I", [5, 6]).tobytes(), 2),
        ("/v1/embeddings", "messages", [{"a": 1}], b'[{"a": 1}', 3),
        ("/v1/embeddings", "input", [{"text": "a"}], b'[{"text": "a"}', 4),
        ("/v1/responses", "input", "hi", b"hi", 1),
        ("/v1/responses", "input", [{"role": "user"}], b'[{"role": "user"}', 5),
        ("/v1/conversations", "items", [{"role": "user"}], b'[{"role": "user"}', 5),
        ("/v1/images/generations", "prompt", "a cat", b"a cat", 2),
        ("/v1/chat/completions/render", "messages", [{"a": 1}], b'[{"a": 1}', 3),
        (COMPLETIONS, "prompt_embeds", "AAAA", b"", 1),
        ("/unknown/path", "prompt", "hi", b"hi", 1),
    ],
)
def test_prompts_of_each_api(path: str, field: str, value: object, prompt: bytes, tokens: int) -> None:
    """Each API's prompt is found in its field, in every form the API allows; token ids are counted exactly."""
    parsed = parse(path, {"model": "m", field: value})
    assert (parsed.prompt, parsed.prompt_tokens) == (prompt, tokens)


def test_responses_prompt_begins_with_what_the_model_sees_first() -> None:
    """Tools and instructions stand before the input, whatever their order in the body."""
    body = b'{"input":"go","model":"m","instructions":"be kind","tools":[{"n":1}],"max_output_tokens":9,"max_tokens":1}'
    parsed = parse("/v1/responses?x=1", body)
    assert parsed.prompt == b'[{"n":1}]"be kind"go'
    assert parsed.max_tokens == 9


def test_null_means_absent() -> None:
    """A field that is null is as good as missing: no tools, no salt, no limit."""
    body = {"model": "m", "messages": [1], "tools": None, "cache_salt": None, "max_tokens": None, "stream": None}
    assert parse(CHAT, body) == Parsed(model="m", prompt=b"[1", prompt_tokens=1)


@pytest.mark.parametrize("value", ["x", 1.5, -3, 10**30, [1], True, "5"])
def test_strange_scalars_are_left_to_the_model_server(value: object) -> None:
    """A limit or flag of the wrong kind does not stop routing."""
    parsed = parse(CHAT, {"model": "m", "messages": [1], "max_tokens": value, "stream": "true", "cache_salt": 5})
    assert (parsed.max_tokens, parsed.stream, parsed.cache_salt) == (None, False, "")


def test_last_of_repeated_keys_counts() -> None:
    """As model servers read it, the last of equal keys wins, so nobody can route by one model and use another."""
    assert parse(CHAT, b'{"model":"a","messages":[1],"model":"b","mod\\u0065l":"c"}').model == "c"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "is empty"),
        (b"   ", "not valid JSON: it ends too early"),
        (b'{"model":"m"', "not valid JSON: it ends too early, after byte 12"),
        (b'{"model":"m",}', "not valid JSON: trailing comma in object at byte 13"),
        (b'{"model":"m"} SECRET', "trailing characters at byte 15"),
        (b'\xef\xbb\xbf{"model":?}', "at byte 12"),
        (b'[{"model":"m"}]', "must be a JSON object, not an array"),
        (b' "SECRET"', "must be a JSON object, not a string"),
        (b"null", "must be a JSON object, not null"),
        (b"12", "must be a JSON object, not a number"),
        (b"\xff\xfe{\x00", "not valid JSON"),
        (b'{"messages":[1]}', '"model" is missing'),
        (b'{"model":null,"messages":[1]}', '"model" must be a string, not null'),
        (b'{"model":["SECRET"],"messages":[1]}', '"model" must be a string, not an array'),
        (b'{"model":7,"messages":[1]}', '"model" must be a string, not a number'),
        (b'{"model":"","messages":[1]}', '"model" is empty'),
        (b'{"model":" \\u2003","messages":[1]}', '"model" is empty'),
        (b'{"model":"a\\nb","messages":[1]}', "control characters"),
        (b'{"model":"a\\u0085b","messages":[1]}', "control characters"),
        (b'{"model":"\xff\xfe","messages":[1]}', "not valid Unicode"),
        (b'{"model":"\\ud800","messages":[1]}', "not valid JSON: unexpected end of hex escape"),
        (b'{"model":"' + b"x" * 1025 + b'","messages":[1]}', "longer than 1024 characters"),
        (b'{"model":"' + b"x" * 100_000 + b'","messages":[1]}', "longer than 1024 characters"),
        (b'{"model":"m"}', '"messages" is missing'),
        (b'{"model":"m","messages":null}', '"messages" is missing'),
        (b'{"model":"m","messages":[ \n ]}', '"messages" is an empty array'),
        (b'{"model":"m","messages":"SECRET"}', '"messages" must be an array, not a string'),
        (b'{"model":"m","messages":{"SECRET":1}}', '"messages" must be an array, not an object'),
    ],
)
def test_bad_chat_bodies_are_refused_clearly(body: bytes, words: str) -> None:
    """Each kind of nonsense gets a 400 that names what is wrong and where, and never quotes the body."""
    message = refusal(CHAT, body)
    assert words in message
    assert "SECRET" not in message


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        (COMPLETIONS, {}, '"prompt" is missing'),
        (COMPLETIONS, {"prompt": []}, '"prompt" is an empty array'),
        (COMPLETIONS, {"prompt": 5}, '"prompt" must be a string or an array, not a number'),
        ("/v1/embeddings", {"prompt": "x"}, '"input" is missing'),
        ("/v1/responses", {"messages": [1]}, '"input" is missing'),
        ("/v1/conversations", {}, '"items" is missing'),
        ("/v1/images/generations", {}, '"prompt" is missing'),
    ],
)
def test_missing_prompts_are_refused(path: str, body: dict[str, Any], words: str) -> None:
    """Each API names the field it lacks."""
    assert words in refusal(path, {"model": "m", **body})


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
@pytest.mark.parametrize("field", [b"messages", b"model", b"extra"])
def test_deep_nesting_is_refused(opening: bytes, field: bytes) -> None:
    """A body nested a hundred thousand deep is a bad request, not a crash."""
    depth = 100_000
    body = b'{"%b":%b1%b}' % (field, opening * depth, (b"]" if opening == b"[" else b"}") * depth)
    assert "nested too deeply" in refusal(CHAT, body)


def test_compressed_bodies_are_refused() -> None:
    """A compressed body is named as such instead of being called broken JSON."""
    assert "compressed" in refusal(CHAT, b"\x1f\x8b", **{"content-encoding": "gzip"})
    assert parse(CHAT, {"model": "m", "messages": [1]}, **{"content-encoding": "identity"}).model == "m"


def test_byte_order_mark_is_ignored() -> None:
    """Model servers read bodies with a byte order mark, so they are routed."""
    assert parse(CHAT, b'\xef\xbb\xbf{"model":"m","messages":[1]}').model == "m"


def test_undecodable_prompts_are_routed() -> None:
    """Bytes of a prompt that are no UTF-8 are the model server's to judge."""
    assert parse(COMPLETIONS, b'{"model":"m","prompt":"\xff\xfe"}').prompt == b"\xff\xfe"


MESSAGES = st.lists(st.dictionaries(st.sampled_from(["role", "content"]), st.text(), min_size=1), min_size=1, max_size=5)


@given(MESSAGES, MESSAGES, st.sampled_from([None, 1, "\t"]), st.booleans())
def test_a_grown_conversation_begins_with_the_earlier_one(
    earlier: list[dict[str, str]],
    more: list[dict[str, str]],
    indent: int | str | None,
    ascii_only: bool,
) -> None:
    """However a client writes its JSON, a later turn's prompt begins with the earlier turn's."""
    prompts = [
        parse(CHAT, json.dumps({"model": "m", "messages": m}, indent=indent, ensure_ascii=ascii_only).encode()).prompt
        for m in (earlier, earlier + more)
    ]
    assert prompts[1].startswith(prompts[0])
    assert len(prompts[1]) > len(prompts[0])


@given(st.text(), st.text(), st.lists(st.integers(0, 2**32 - 1), min_size=1), st.lists(st.integers(0, 2**32 - 1)))
def test_grown_text_and_token_ids_begin_with_the_earlier_ones(text: str, more: str, ids: list[int], more_ids: list[int]) -> None:
    """A longer text, or a longer list of token ids, begins with the shorter one; four bytes are one token id."""
    assert parse(COMPLETIONS, {"model": "m", "prompt": text + more}).prompt.startswith(
        parse(COMPLETIONS, {"model": "m", "prompt": text}).prompt
    )
    parsed = parse(COMPLETIONS, {"model": "m", "prompt": ids + more_ids})
    assert parsed.prompt.startswith(parse(COMPLETIONS, {"model": "m", "prompt": ids}).prompt)
    assert parsed.prompt_tokens == len(ids + more_ids) == len(parsed.prompt) // 4


@given(st.binary())
def test_any_bytes_are_parsed_or_refused(body: bytes) -> None:
    """No body raises anything but a bad request."""
    message = ""
    try:
        parse(CHAT, body)
    except BadRequest as refused:
        message = refused.message
    assert message.isprintable()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
NAMES = ["model", "messages", "prompt", "input", "items", "stream", "max_tokens", "tools", "instructions", "cache_salt"]


@given(st.sampled_from(OpenAIParser.paths), st.dictionaries(st.sampled_from(NAMES), JSON))
def test_any_object_is_parsed_or_refused(path: str, body: dict[str, Any]) -> None:
    """Whatever stands in the fields, the answer is a model of the body's or a bad request."""
    try:
        parsed = parse(f"/v1/{path}", body)
    except BadRequest:
        return
    assert parsed.model == body["model"]
    assert parsed.prompt_tokens >= 1


def test_a_huge_array_of_token_ids_costs_little_and_still_counts() -> None:
    """Only the first ids are read as such; nesting and length cannot stop the picker, and tokens are still counted."""
    for ids, tokens in (("1," * 400_000 + "1", 400_001), ("[]," * 300_000 + "[1]", 300_001)):
        parsed = OpenAIParser().parse("/v1/completions", {}, f'{{"model": "m", "prompt": [{ids}]}}'.encode())
        assert parsed.prompt_tokens == tokens
        assert len(parsed.prompt) <= MAX_ID_TEXT * 2


def test_a_cut_array_of_token_ids_keeps_the_prefix() -> None:
    """A longer conversation begins with the bytes of the shorter one, also beyond the cut."""
    ids = ",".join(str(number % 1000) for number in range(300_000))
    short = OpenAIParser().parse("/v1/completions", {}, f'{{"model": "m", "prompt": [{ids}]}}'.encode())
    longer = OpenAIParser().parse("/v1/completions", {}, f'{{"model": "m", "prompt": [{ids},7,8]}}'.encode())
    assert longer.prompt == short.prompt
    assert longer.prompt_tokens == short.prompt_tokens + 2


def test_a_cache_salt_that_is_no_salt_is_refused() -> None:
    """It is kept as long as the request runs, so it must be short."""
    body = json.dumps({"model": "m", "messages": [{}], "cache_salt": "s" * 5000}).encode()
    with pytest.raises(BadRequest, match="cache_salt"):
        OpenAIParser().parse("/v1/chat/completions", {}, body)
