from __future__ import annotations

from typing import Any

from epp_plugins.profiles.single import SingleProfileHandler

from epp.api import Pick


def test_the_profile_runs_once_and_serves(ask: Any) -> None:
    """The one profile runs, then scheduling ends, and its choice is the answer even when it found nobody."""
    handler, request = SingleProfileHandler(), ask()
    assert list(handler.profiles(request, ("mine",), {})) == ["mine"]
    done: dict[str, Pick | None] = {"mine": None}
    assert list(handler.profiles(request, ("mine",), done)) == []
    assert handler.primary(request, done) == "mine"
