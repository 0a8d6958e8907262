"""Decides which bytes of a request stand for its prompt: a stretch that only grows at its end as a conversation grows.

So a later turn's stretch begins with the earlier one's, which is what prefix matching needs. Arrays lose their closing
bracket, strings their quotes. Token ids become four bytes each, so that "four bytes a token" is exact for them.
"""

from __future__ import annotations

import array
import re
from typing import NamedTuple

import msgspec

from epp.errors import BadRequest
from epp.requests.body import Raw, given, kind

BYTES_PER_TOKEN = 4
#: Of a prompt of token ids so many bytes of JSON are read as ids: some 75,000, a few milliseconds. More ids than that
#: count as tokens, and two prompts that differ only beyond them look alike.
MAX_ID_TEXT = 1 << 19
_FIRST_ITEM = re.compile(rb"\[[ \t\r\n]*(.)", re.DOTALL)
_SPACE = b" \t\r\n"

_ids = msgspec.json.Decoder(list[int])
_id_lists = msgspec.json.Decoder(list[list[int]])


class Stretch(NamedTuple):
    """The bytes that stand for the prompt, and how many tokens they are: exact for token ids, else an estimate, at least 1."""

    prompt: bytes
    tokens: int


def of_bytes(prompt: bytes) -> Stretch:
    """Estimate the tokens of `prompt` by its length."""
    return Stretch(prompt, max(1, -(-len(prompt) // BYTES_PER_TOKEN)))


def of_items(name: str, value: Raw, before: bytes = b"") -> Stretch:
    """Take the array in field `name`, which must have an item, after the bytes `before`; raise `BadRequest`."""
    if not given(value):
        message = f'The field "{name}" is missing; it must be an array with at least one item.'
        raise BadRequest(message)
    if kind(value) != "an array":
        message = f'The field "{name}" must be an array, not {kind(value)}.'
        raise BadRequest(message)
    return of_bytes(before + _open_array(name, value))


def of_text_or_ids(name: str, value: Raw, before: bytes = b"") -> Stretch:
    """Take a string, or an array of strings, token ids, lists of token ids or objects; raise `BadRequest` for the rest."""
    if not given(value):
        message = f'The field "{name}" is missing; it must be a string or an array.'
        raise BadRequest(message)
    found = kind(value)
    if found == "a string":
        return of_bytes(before + bytes(memoryview(value)[1:-1]))
    if found != "an array":
        message = f'The field "{name}" must be a string or an array, not {found}.'
        raise BadRequest(message)
    stretch = _open_array(name, value)
    first = _FIRST_ITEM.match(stretch)
    opening = first[1] if first is not None else b""
    if opening == b'"':  # a batch of strings begins as its first string does alone
        return of_bytes(before + stretch[stretch.index(b'"') + 1 :])
    if not before and (opening == b"[" or opening.isdigit()):
        found_ids = _token_ids(bytes(value), nested=opening == b"[")
        if found_ids is not None:
            return found_ids
    return of_bytes(before + stretch)


def context(*values: Raw) -> bytes:
    """Join what stands before the conversation in the model's eyes (tools, instructions), leaving out what is absent."""
    return b"".join(bytes(value) for value in values if given(value))


def _open_array(name: str, value: Raw) -> bytes:
    """Give the array without its closing bracket and the space before it, so that a longer array begins with it."""
    stretch = bytes(memoryview(value)[:-1]).rstrip(_SPACE)
    if len(stretch) == 1:
        message = f'The field "{name}" is an empty array; it must have at least one item.'
        raise BadRequest(message)
    return stretch


def _token_ids(text: bytes, *, nested: bool) -> Stretch | None:
    """Pack token ids, four bytes each; None when the array holds anything else, which the model server will judge."""
    packed = array.array("I")
    tokens = 0
    if len(text) > MAX_ID_TEXT:
        tokens = text.count(b",") + 1
        text = text[: max(1, text.rfind(b",", 0, MAX_ID_TEXT))].rstrip(_SPACE)
        text += b"]" * (text.count(b"[") - text.count(b"]"))
    try:
        for ids in _id_lists.decode(text) if nested else (_ids.decode(text),):
            packed.extend(ids)
    except (msgspec.DecodeError, OverflowError, RecursionError):
        return None
    return Stretch(packed.tobytes(), tokens or max(1, len(packed)))
