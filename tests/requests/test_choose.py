"""Which parser reads which path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import pytest

from epp.api import Parsed, Parser
from epp.errors import BadRequest
from epp.requests.choose import ParserTable
from epp.requests.openai import OpenAIParser
from epp.requests.passthrough import PassthroughParser
from epp.requests.paths import longest_suffix, request_path

if TYPE_CHECKING:
    from epp.api import UsageReader


class GenerateParser:
    """A parser with paths of its own, one of them longer than one of OpenAI's."""

    paths: ClassVar[tuple[str, ...]] = ("/generate", "special/completions")

    def parse(self, path: str, headers: Mapping[str, str], body: bytes) -> Parsed:
        """Read nothing."""
        return Parsed()

    def usage(self, content_type: str) -> UsageReader | None:
        """Read nothing."""
        return None


OPENAI, GENERATE, PASSTHROUGH = OpenAIParser(), GenerateParser(), PassthroughParser()


@pytest.mark.parametrize(
    ("headers", "path"),
    [
        ({":path": "/v1/embeddings?x=1/completions"}, "/v1/embeddings"),
        ({":path": "", "x-original-path": "/a", "x-forwarded-path": "/b"}, "/a"),
        ({"x-forwarded-path": "/b?q"}, "/b"),
        ({}, "/v1/completions"),
    ],
)
def test_path_headers_have_an_order(headers: dict[str, str], path: str) -> None:
    """The path comes from `:path`, then the two headers of rewriting proxies, then the default; the query is cut."""
    assert request_path(headers) == path


@pytest.mark.parametrize(
    ("path", "parser"),
    [
        ("/v1/chat/completions", OPENAI),
        ("/v1/chat/completions/", OPENAI),
        ("/v1/projects/p/endpoints/e/chat/completions?beta=true", OPENAI),
        ("/v1/completions/render", OPENAI),
        ("/generate", GENERATE),
        ("/v1/special/completions", GENERATE),
        ("/v1/audio/transcriptions", PASSTHROUGH),
        ("/", PASSTHROUGH),
    ],
)
def test_longest_claimed_suffix_wins(path: str, parser: Parser) -> None:
    """The longest suffix decides whatever the order; what nobody claims goes to the fallback."""
    assert ParserTable([OPENAI, GENERATE, PASSTHROUGH]).find({":path": path}) is parser
    assert ParserTable([GENERATE, OPENAI, PASSTHROUGH]).find({":path": path}) is parser


def test_parsers_after_the_fallback_are_shadowed() -> None:
    """As in the reference, nothing after the fallback is ever asked; the table says who."""
    table = ParserTable([PASSTHROUGH, OPENAI])
    assert table.find({":path": "/v1/chat/completions"}) is PASSTHROUGH
    assert table.shadowed == (OPENAI,)
    assert table.suffixes == ()


def test_of_equal_claims_the_first_parser_wins() -> None:
    """Two parsers of one kind: the one listed first reads."""
    first, second = OpenAIParser(), OpenAIParser()
    assert ParserTable([first, second]).find({":path": "/v1/responses"}) is first


def test_unclaimed_path_is_refused_with_what_is_served() -> None:
    """Without a fallback the client learns its path and the paths that work."""
    with pytest.raises(BadRequest) as refused:
        ParserTable([OPENAI]).find({":path": "/v1/audio/speech?voice=x"})
    assert refused.value.status == 400
    assert "/v1/audio/speech" in refused.value.message
    assert "voice" not in refused.value.message
    assert "…/chat/completions" in refused.value.message
    assert "passthrough-parser" in refused.value.message


def test_strange_paths_are_shown_safely() -> None:
    """A path cannot break the message into lines or make it huge."""
    with pytest.raises(BadRequest) as refused:
        ParserTable([]).find({":path": "/a\nb" + "x" * 5000})
    assert "\n" not in refused.value.message
    assert len(refused.value.message) < 1000


def test_no_suffix_matches_no_path() -> None:
    """A suffix that is longer than the path does not match it."""
    assert longest_suffix("/s", ["responses"]) is None


def test_passthrough_reads_nothing() -> None:
    """The fallback takes any bytes, finds no model and no prompt, and reads no usage."""
    parsed = PASSTHROUGH.parse("/x", {}, b"\x00\xff not json")
    assert parsed == Parsed(model=None, prompt=b"", prompt_tokens=0)
    assert PASSTHROUGH.usage("application/json") is None
    assert isinstance(PASSTHROUGH, Parser)
