"""Decides which parser reads a request: by its path alone, as the reference does. Knows nothing of bodies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from epp.errors import BadRequest
from epp.requests.paths import longest_suffix, normal_suffix, request_path

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from epp.api import Parser


class ParserTable:
    """The configured parsers by the path suffixes they claim. The longest claimed suffix wins, then the fallback.

    A parser that claims no path is the fallback; `shadowed` are those listed after it, which are never asked.
    """

    def __init__(self, parsers: Sequence[Parser]) -> None:
        """Take the parsers in their configured order; of equal claims the first listed wins."""
        self._by_suffix: dict[str, Parser] = {}
        self.fallback: Parser | None = None
        self.shadowed: tuple[Parser, ...] = ()
        for position, parser in enumerate(parsers):
            if not parser.paths:
                self.fallback = parser
                self.shadowed = tuple(parsers[position + 1 :])
                break
            for suffix in parser.paths:
                self._by_suffix.setdefault(normal_suffix(suffix), parser)

    @property
    def suffixes(self) -> Sequence[str]:
        """Every path suffix that some parser claims."""
        return tuple(self._by_suffix)

    def claims(self, headers: Mapping[str, str]) -> bool:
        """Tell whether some parser claims the path of a request with these `headers`; the fallback claims none."""
        return longest_suffix(request_path(headers), self._by_suffix) is not None

    def find(self, headers: Mapping[str, str]) -> Parser:
        """Give the parser for a request with these `headers` (names in lower case); raise `BadRequest` when there is none."""
        path = request_path(headers)
        suffix = longest_suffix(path, self._by_suffix)
        if suffix is not None:
            return self._by_suffix[suffix]
        if self.fallback is not None:
            return self.fallback
        served = ", ".join(f"…/{known}" for known in self._by_suffix) or "none at all"
        message = (
            f"No parser is configured for the path {_shown(path)}. Paths served here: {served}. "
            "Call one of them, or add `passthrough-parser` to `requestHandler.parsers`."
        )
        raise BadRequest(message)


def _shown(path: str) -> str:
    """Give the path for an error message: bounded, and one line."""
    shown = path if len(path) <= 200 else path[:200] + "…"
    return shown if shown.isprintable() else ascii(shown)
