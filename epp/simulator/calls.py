"""What a client asks for: a request body of one of the OpenAI APIs, read and checked, or a refusal in vLLM's form.

Pure: bytes in, `Call` out. Which models exist is asked of the caller.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from epp.simulator.text import TOKEN_BYTES, encode, render_chat, render_content

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"
MAX_ANSWERS = 256  # prompts times n in one call

_KINDS = {400: "BadRequestError", 404: "NotFoundError", 413: "RequestTooLargeError", 500: "InternalServerError"}


class Refusal(Exception):  # noqa: N818 - an answer, not a fault
    """An error answer as vLLM gives it."""

    def __init__(self, status: int, message: str, param: str | None = None) -> None:
        """Take the HTTP status, a message that says what to change, and the parameter it is about."""
        super().__init__(message)
        self.status, self.message, self.param = status, message, param

    def body(self) -> bytes:
        """Give the JSON body."""
        kind = _KINDS.get(self.status, "Error")
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.status}
        return msgspec.json.encode({"error": error})


@dataclass(frozen=True, slots=True)
class Received:
    """A request as it arrived. Header names are lower case; of a repeated header the values are joined with commas."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes = field(repr=False)

    @property
    def length(self) -> int:
        """The body's length in bytes."""
        return len(self.body)

    @property
    def sha256(self) -> str:
        """The body's SHA-256, in hexadecimal."""
        return hashlib.sha256(self.body).hexdigest()


@dataclass(frozen=True, slots=True)
class Call:
    """One request: a prompt for each answer wanted (each prompt `n` times), and how the answer is to be given."""

    api: str
    model: str
    prompts: tuple[bytes, ...]
    n: int = 1
    max_tokens: int | None = None
    stream: bool = False
    include_usage: bool = False
    salt: str = ""


def read_call(api: str, body: bytes) -> Call:
    """Read `body` as a request of `api`. Raises `Refusal` for what cannot be served."""
    try:
        data = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refusal(400, f"the body is not JSON: {error}") from None
    if not isinstance(data, dict):
        raise Refusal(400, "the body must be a JSON object")
    model = data.get("model")
    if not isinstance(model, str) or not model:
        raise Refusal(400, "`model` is required and must be a string", "model")
    prompts = _READERS[api](data)
    n = (_integer(data, "n", 1, 1) if api in (CHAT, COMPLETIONS) else None) or 1
    if not 0 < len(prompts) * n <= MAX_ANSWERS:
        raise Refusal(400, f"one call may ask for 1 to {MAX_ANSWERS} answers, not {len(prompts) * n}", "n")
    options = data.get("stream_options")
    salt = data.get("cache_salt")
    return Call(
        api=api,
        model=model,
        prompts=tuple(prompt for prompt in prompts for _ in range(n)),
        n=n,
        max_tokens=_max_tokens(api, data),
        stream=data.get("stream") is True and api != EMBEDDINGS,
        include_usage=isinstance(options, dict) and options.get("include_usage") is True,
        salt=salt if isinstance(salt, str) else "",
    )


def _max_tokens(api: str, data: Mapping[str, Any]) -> int | None:
    if api == EMBEDDINGS:
        return 0
    if api == RESPONSES:
        return _integer(data, "max_output_tokens", None, 1)
    if api == CHAT and data.get("max_completion_tokens") is not None:
        return _integer(data, "max_completion_tokens", None, 1)
    return _integer(data, "max_tokens", None, 1)


def _integer(data: Mapping[str, Any], name: str, default: int | None, least: int) -> int | None:
    value = data.get(name)
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise Refusal(400, f"`{name}` must be an integer of at least {least}", name)
    return value


def _chat(data: Mapping[str, Any]) -> list[bytes]:
    messages = data.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(message, dict) for message in messages):
        raise Refusal(400, "`messages` is required: a list of at least one message object", "messages")
    return [render_chat(messages, data.get("tools"))]


def _completions(data: Mapping[str, Any]) -> list[bytes]:
    return _texts(data, "prompt")


def _embeddings(data: Mapping[str, Any]) -> list[bytes]:
    if isinstance(data.get("messages"), list):
        return _chat(data)
    return _texts(data, "input")


def _texts(data: Mapping[str, Any], name: str) -> list[bytes]:
    """Read a text, token ids, or a list of either."""
    value = data.get(name)
    if isinstance(value, str):
        return [encode(value)]
    if isinstance(value, list) and value:
        if all(_is_token(item) for item in value):
            return [_tokens(value)]
        if all(isinstance(item, str) for item in value):
            return [encode(item) for item in value]
        if all(isinstance(item, list) and item and all(_is_token(token) for token in item) for item in value):
            return [_tokens(item) for item in value]
    raise Refusal(400, f"`{name}` is required: a string, a list of token ids, or a list of either", name)


def _is_token(item: Any) -> bool:
    return isinstance(item, int) and not isinstance(item, bool) and 0 <= item < 2 ** (8 * TOKEN_BYTES)


def _tokens(ids: list[int]) -> bytes:
    """Give token ids their four bytes each, so that they count and hash as tokens."""
    return b"".join(token.to_bytes(TOKEN_BYTES, "little") for token in ids)


def _responses(data: Mapping[str, Any]) -> list[bytes]:
    value, instructions = data.get("input"), data.get("instructions")
    messages: list[dict[str, Any]] = []
    if isinstance(instructions, str):
        messages.append({"role": "system", "content": instructions})
    if isinstance(value, str):
        messages.append({"role": "user", "content": value})
    elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        messages += [item if "content" in item else {"role": item.get("type", "user"), "content": _bare(item)} for item in value]
    else:
        raise Refusal(400, "`input` is required: a string or a list of items", "input")
    return [render_chat(messages, data.get("tools"))]


def _bare(item: Mapping[str, Any]) -> str:
    """Give an item without content, such as the result of a tool, as its JSON."""
    return render_content([item]).decode()


_READERS: Mapping[str, Callable[[Mapping[str, Any]], list[bytes]]] = {
    CHAT: _chat,
    COMPLETIONS: _completions,
    EMBEDDINGS: _embeddings,
    RESPONSES: _responses,
}
