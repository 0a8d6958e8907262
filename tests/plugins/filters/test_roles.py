"""The three filters of disaggregated serving, on the same roles."""

from __future__ import annotations

from typing import Any

import pytest
from epp_plugins.filters.decode import DecodeFilter
from epp_plugins.filters.encode import EncodeFilter
from epp_plugins.filters.prefill import PrefillFilter

ROLES = ("decode", "prefill", "encode", "prefill-decode", "both", "encode-prefill", "encode-prefill-decode", "other")


@pytest.mark.parametrize(
    ("plugin", "roles", "without"),
    [
        (DecodeFilter(), {"decode", "prefill-decode", "both", "encode-prefill-decode"}, True),
        (PrefillFilter(), {"prefill", "encode-prefill", "prefill-decode", "both", "encode-prefill-decode"}, False),
        (EncodeFilter(), {"encode", "encode-prefill", "encode-prefill-decode"}, False),
    ],
)
def test_each_stage_has_its_roles(pool: Any, ask: Any, plugin: Any, roles: set[str], *, without: bool) -> None:
    """A stage takes the roles that contain it; only decode takes endpoints without a role."""
    labels = [{"llm-d.ai/role": role} for role in ROLES] + [{}]
    mask = plugin.filter(ask(), pool(labels=labels).candidates())
    assert mask.tolist() == [role in roles for role in ROLES] + [without]
