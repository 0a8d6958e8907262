"""The OpenAI API: which field of a request is its prompt, and where an answer tells its usage. One pass over the body.

The body is never built as objects nor written again; what is read are slices of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from epp.api import Parsed
from epp.errors import BadRequest
from epp.requests import body as json_body
from epp.requests import stretch
from epp.requests.paths import longest_suffix, without_query
from epp.requests.usage import reader

if TYPE_CHECKING:
    from epp.api import UsageReader
    from epp.requests.body import Fields, Raw
    from epp.requests.stretch import Stretch


def _chat(fields: Fields) -> Stretch:
    # Chat templates put the tools before the messages, so they come first here too.
    return stretch.of_items("messages", fields.messages, stretch.context(fields.tools))


def _completions(fields: Fields) -> Stretch:
    if json_body.given(fields.prompt_embeds) and not json_body.given(fields.prompt):
        return stretch.of_bytes(b"")  # vLLM takes embeddings in place of a prompt; they have no prefix to speak of
    return stretch.of_text_or_ids("prompt", fields.prompt)


def _embeddings(fields: Fields) -> Stretch:
    if json_body.given(fields.messages) and not json_body.given(fields.input):
        return _chat(fields)  # vLLM embeds conversations too
    return stretch.of_text_or_ids("input", fields.input)


def _responses(fields: Fields) -> Stretch:
    return stretch.of_text_or_ids("input", fields.input, stretch.context(fields.tools, fields.instructions))


def _conversations(fields: Fields) -> Stretch:
    return stretch.of_items("items", fields.items)


def _images(fields: Fields) -> Stretch:
    return stretch.of_text_or_ids("prompt", fields.prompt)


class _Api(NamedTuple):
    """How one API is read: its prompt, and the fields that limit its output, the first given one counts."""

    prompt: Callable[[Fields], Stretch]
    limits: Callable[[Fields], tuple[Raw, ...]]


def _no_limit(_fields: Fields) -> tuple[Raw, ...]:
    return ()


_CHAT = _Api(_chat, lambda fields: (fields.max_completion_tokens, fields.max_tokens))
_COMPLETIONS = _Api(_completions, lambda fields: (fields.max_tokens,))
_RESPONSES = _Api(_responses, lambda fields: (fields.max_output_tokens,))

_APIS: Mapping[str, _Api] = {
    "chat/completions": _CHAT,
    "completions": _COMPLETIONS,
    "embeddings": _Api(_embeddings, _no_limit),
    "responses": _RESPONSES,
    "conversations": _Api(_conversations, _no_limit),
    "chat/completions/render": _CHAT,
    "completions/render": _COMPLETIONS,
    "images/generations": _Api(_images, _no_limit),
}


class OpenAIParser:
    """Reads OpenAI's chat, completions, embeddings, responses, conversations, render and image requests."""

    paths: ClassVar[tuple[str, ...]] = tuple(_APIS)

    def parse(self, path: str, headers: Mapping[str, str], body: bytes) -> Parsed:
        """Read what routing needs of `body`; `path` says which API it is. Fields unknown here are the model server's business."""
        _refuse_compressed(headers)
        api = _APIS.get(longest_suffix(without_query(path), _APIS) or "", _COMPLETIONS)
        fields = json_body.read(body)
        model = json_body.model_name(fields.model)
        prompt, tokens = api.prompt(fields)
        return Parsed(
            model=model,
            stream=json_body.flag(fields.stream),
            prompt=prompt,
            prompt_tokens=tokens,
            max_tokens=_first_count(api.limits(fields)),
            cache_salt=json_body.salt(fields.cache_salt),
        )

    def usage(self, content_type: str) -> UsageReader | None:
        """Give a reader for a JSON or event-stream answer."""
        return reader(content_type)


def _first_count(values: tuple[Raw, ...]) -> int | None:
    for value in values:
        number = json_body.count(value)
        if number is not None:
            return number
    return None


def _refuse_compressed(headers: Mapping[str, str]) -> None:
    encoding = headers.get("content-encoding", "").strip().lower()
    if encoding not in {"", "identity"}:
        message = "The request body is compressed (content-encoding); send it uncompressed, the model cannot be read otherwise."
        raise BadRequest(message)
