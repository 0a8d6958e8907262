"""What the plugins' tests share: pools with the numbers a test names, requests, and the picker's services."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest

from epp.api import EndpointSpec, Parsed, Pool, Request, Services


def make_pool(count: int = 0, *, labels: Sequence[Mapping[str, str]] = (), **columns: Sequence[float]) -> Pool:
    """Make a pool with these labels and columns, one value an endpoint, named `10.0.0.1:80` and so on."""
    count = count or len(labels) or max(map(len, columns.values()))
    pool = Pool(lambda: 0.0)
    pool.update(EndpointSpec(f"10.0.0.{number + 1}", 80, labels=labels[number] if labels else {}) for number in range(count))
    for name, values in columns.items():
        pool.attribute(name)[:] = values
    return pool


def make_request(prompt: bytes = b"", *, model: str = "m", **parsed: Any) -> Request:
    """Make a request with this prompt, four bytes a token."""
    parsed.setdefault("prompt_tokens", -(-len(prompt) // 4))
    return Request("1", "POST", "/", {}, parsed=Parsed(model, prompt=prompt, **parsed), model=model, target_model=model)


@pytest.fixture
def pool() -> Callable[..., Pool]:
    """Give the maker of pools."""
    return make_pool


@pytest.fixture
def ask() -> Callable[..., Request]:
    """Give the maker of requests."""
    return make_request


@pytest.fixture
def services() -> Services:
    """Give what the picker hands to plugins, for one that is named `mine`."""
    return Services("mine", lambda: 0.0, Random(7), Path())
