"""Runs one scheduling profile, whose choice serves the request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from epp.api import Pick, Request


class SingleProfileHandler:
    """For configurations with exactly one profile."""

    def profiles(self, request: Request, available: Sequence[str], done: Mapping[str, Pick | None]) -> Sequence[str]:
        """Name the profile once."""
        return () if done else available[:1]

    def primary(self, request: Request, done: Mapping[str, Pick | None]) -> str:
        """Name the profile that ran."""
        return next(iter(done))
