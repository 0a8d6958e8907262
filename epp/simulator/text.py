"""Text without a model: what counts as a token, how a chat becomes one prompt, what the answer says.

A token is four bytes. The answer's words are four bytes each and depend on the prompt's hash only, so that equal prompts
get equal answers from every server, and a conversation that carries an answer back finds its blocks in the cache.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import xxhash

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TOKEN_BYTES = 4

_WORDS = (
    "air", "bay", "bee", "bow", "box", "boy", "bud", "bus", "cap", "cat", "cup", "day", "dew", "dog", "ear", "elm",
    "eye", "fig", "fir", "fox", "hat", "hay", "hen", "ice", "ink", "ivy", "jar", "jay", "key", "lad", "lid", "map",
    "nut", "oak", "oar", "owl", "pea", "pen", "pie", "pot", "ray", "rug", "rye", "sea", "sky", "sun", "tea", "yew",
)  # fmt: skip


def count_tokens(prompt: bytes) -> int:
    """Say how many tokens `prompt` is; at least 1."""
    return max(1, -(-len(prompt) // TOKEN_BYTES))


def block_hashes(text: bytes, block_size: int, salt: str) -> tuple[int, ...]:
    """Hash the full blocks of `text`, each with all before it; `salt` keeps models, adapters and tenants apart."""
    width = block_size * TOKEN_BYTES
    value, hashes = xxhash.xxh3_64_intdigest(salt.encode(errors="surrogatepass")), []
    for start in range(0, len(text) - width + 1, width):
        value = xxhash.xxh3_64_intdigest(text[start : start + width], seed=value)
        hashes.append(value)
    return tuple(hashes)


class Answer:
    """The answer to one prompt, word by word; `word(0)` begins it, and each word is one token."""

    __slots__ = ("_seed",)

    def __init__(self, prompt: bytes) -> None:
        """Derive the answer from `prompt`, without quoting it."""
        self._seed = xxhash.xxh3_64_intdigest(prompt)

    def word(self, index: int) -> str:
        """Give token `index`: four bytes, of which all but the first begin with a space."""
        word = _WORDS[(self._seed + index * (2 * (self._seed >> 32) + 1)) % len(_WORDS)]
        return f" {word}" if index else f"{word.capitalize()}s"

    def text(self, start: int, end: int) -> str:
        """Give tokens `start` to `end`, not including `end`."""
        return "".join(self.word(index) for index in range(start, end))


def encode(text: str) -> bytes:
    """Encode `text`; a lone surrogate, which JSON can carry, becomes a question mark."""
    return text.encode(errors="replace")


def render_chat(messages: Sequence[Mapping[str, Any]], tools: Any = None) -> bytes:
    """Turn a chat into one prompt: tools, then each message with its role; a longer chat extends a shorter one's bytes."""
    parts = [b"<|tools|>\n", msgspec.json.encode(tools), b"<|end|>\n"] if tools else []
    for message in messages:
        calls = message.get("tool_calls")
        parts += [b"<|", encode(str(message.get("role", "user"))), b"|>\n", render_content(message.get("content"))]
        parts += [msgspec.json.encode(calls)] if calls else []
        parts.append(b"<|end|>\n")
    parts.append(b"<|assistant|>\n")
    return b"".join(parts)


def render_content(content: Any) -> bytes:
    """Turn a message's content into bytes: a string, a list of parts (what is not text by its JSON), or nothing."""
    if content is None:
        return b""
    if isinstance(content, str):
        return encode(content)
    if isinstance(content, list):
        return b"".join(_render_part(part) for part in content)
    return msgspec.json.encode(content)


def _render_part(part: Any) -> bytes:
    text = part.get("text") if isinstance(part, dict) else part
    return encode(text) if isinstance(text, str) else msgspec.json.encode(part)
