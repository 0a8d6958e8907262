"""Decides which path a request is about, and which of several claimed suffixes it bears. Knows no API and no parser."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

#: Where the path stands, best first: proxies that rewrite the path leave the original one in a header.
_PATH_HEADERS = (":path", "x-original-path", "x-forwarded-path")
DEFAULT_PATH = "/v1/completions"  # as the reference: clients of the first days sent none


def request_path(headers: Mapping[str, str]) -> str:
    """Give the path the client meant, without its query. Header names are lower case."""
    for name in _PATH_HEADERS:
        path = headers.get(name)
        if path:
            return without_query(path)
    return DEFAULT_PATH


def without_query(path: str) -> str:
    """Cut the query off `path`, and undo escapes: `/v1/chat/completion%73` is the same path to a model server."""
    path = path.partition("?")[0]
    return unquote(path) if "%" in path else path


def normal_suffix(suffix: str) -> str:
    """Give a claimed suffix as it is compared: without slashes at its ends."""
    return suffix.strip().strip("/")


def longest_suffix(path: str, suffixes: Iterable[str]) -> str | None:
    """Give the longest of `suffixes` that `path` (without query) ends with. Slashes at its end do not count."""
    path = path.strip().rstrip("/")
    found: str | None = None
    for suffix in suffixes:
        if path.endswith(suffix) and (found is None or len(suffix) > len(found)):
            found = suffix
    return found
