"""Reads a JSON request body in one pass, without building what routing does not need, and says clearly why it cannot.

Values stay raw: slices of the body as the client wrote them. Knows no API. No message here quotes the body: it is the prompt.
"""

from __future__ import annotations

import re

import msgspec

from epp.errors import BadRequest

MAX_MODEL_LENGTH = 1024  # characters; a model's name becomes a header and a metric label
_MAX_MODEL_BYTES = 6 * MAX_MODEL_LENGTH + 2  # each character may be written \uXXXX
_MAX_SALT_BYTES = 1024
_BOM = b"\xef\xbb\xbf"
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_PLACE = re.compile(r"(?:JSON is malformed: )?(.*) \(byte (\d+)\)")
_KINDS = {b'"': "a string", b"{": "an object", b"[": "an array", b"t": "a boolean", b"f": "a boolean", b"n": "null"}

Raw = msgspec.Raw
_ABSENT = Raw(b"")


class Fields(msgspec.Struct):
    """The fields routing may need, raw; empty where absent. Of a key that is repeated the last counts, as model servers do."""

    model: Raw = _ABSENT
    stream: Raw = _ABSENT
    max_tokens: Raw = _ABSENT
    max_completion_tokens: Raw = _ABSENT
    max_output_tokens: Raw = _ABSENT
    cache_salt: Raw = _ABSENT
    tools: Raw = _ABSENT
    instructions: Raw = _ABSENT
    messages: Raw = _ABSENT
    prompt: Raw = _ABSENT
    prompt_embeds: Raw = _ABSENT
    input: Raw = _ABSENT
    items: Raw = _ABSENT


_fields = msgspec.json.Decoder(Fields)
_string = msgspec.json.Decoder(str)


def read(body: bytes) -> Fields:
    """Read `body`; raise `BadRequest` with what is wrong and where when it is no JSON object."""
    if not body:
        message = "The request body is empty; it must be a JSON object."
        raise BadRequest(message)
    # A byte order mark is ignored, as model servers in Python do. The body itself is forwarded as it came.
    skipped = len(_BOM) if body.startswith(_BOM) else 0
    try:
        return _fields.decode(memoryview(body)[skipped:] if skipped else body)
    except msgspec.ValidationError:
        message = f"The request body must be a JSON object, not {kind(body[skipped:].lstrip()[:1])}."
    except msgspec.DecodeError as error:
        message = f"The request body is not valid JSON: {_complaint(error, skipped, len(body))}."
    except RecursionError:
        message = "The request body is nested too deeply."
    except UnicodeDecodeError:
        message = "The request body is not valid UTF-8."
    raise BadRequest(message)


def _complaint(error: msgspec.DecodeError, skipped: int, length: int) -> str:
    found = _PLACE.fullmatch(str(error))
    if found is None:
        return f"it ends too early, after byte {length}"
    return f"{found[1]} at byte {int(found[2]) + skipped}"


def kind(value: Raw | bytes) -> str:
    """Name the JSON type of a raw value, for messages."""
    return _KINDS.get(bytes(memoryview(value)[:1]), "a number")


def given(value: Raw) -> bool:
    """Tell whether the field is there and not null."""
    return len(memoryview(value)) > 0 and bytes(memoryview(value)[:1]) != b"n"


def model_name(value: Raw) -> str:
    """Give the model's name; raise `BadRequest` when it is missing or cannot name a model."""
    size = len(memoryview(value))
    if not size:
        message = 'The field "model" is missing; name the model that should answer.'
    elif kind(value) != "a string":
        message = f'The field "model" must be a string, not {kind(value)}.'
    elif size > _MAX_MODEL_BYTES:
        message = f'The field "model" is longer than {MAX_MODEL_LENGTH} characters.'
    else:
        name = text(value)
        if name is None:
            message = 'The field "model" is not valid Unicode text.'
        elif len(name) > MAX_MODEL_LENGTH:
            message = f'The field "model" is longer than {MAX_MODEL_LENGTH} characters.'
        elif not name.strip():
            message = 'The field "model" is empty; name the model that should answer.'
        elif _CONTROL.search(name):
            message = 'The field "model" contains control characters.'
        else:
            return name
    raise BadRequest(message)


def salt(value: Raw) -> str:
    """Give the cache salt, empty when there is none; raise `BadRequest` when it is too long to be one."""
    if len(memoryview(value)) > _MAX_SALT_BYTES:
        message = f'The field "cache_salt" is longer than {_MAX_SALT_BYTES} bytes.'
        raise BadRequest(message)
    return text(value) or ""


def text(value: Raw) -> str | None:
    """Decode a raw string; None when the value is something else or no valid text."""
    try:
        return _string.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def flag(value: Raw) -> bool:
    """Tell whether a raw value is `true`."""
    return bytes(memoryview(value)[:5]) == b"true"


def count(value: Raw) -> int | None:
    """Give a raw value that is a whole number of usual size; None for everything else, which the model server will judge."""
    digits = bytes(memoryview(value)[:16])
    return int(digits) if len(memoryview(value)) < 16 and digits.isdigit() else None
