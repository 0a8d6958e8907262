"""Fixtures of the feedback tests."""

from __future__ import annotations

import pytest

from tests.feedback.world import World


@pytest.fixture
def world() -> World:
    """Give a fresh registry with all it works with."""
    return World()
