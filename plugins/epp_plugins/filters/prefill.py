"""Keeps endpoints that take the prefill stage of disaggregated serving."""

from __future__ import annotations

from epp_plugins.filters.by_label import ByLabelFilter, ByLabelParameters

_ROLES = ByLabelParameters(
    label="llm-d.ai/role", valid_values=("prefill", "encode-prefill", "prefill-decode", "both", "encode-prefill-decode")
)


class PrefillFilter(ByLabelFilter):
    """Label `llm-d.ai/role` names a role with prefill."""

    def __init__(self) -> None:
        """Take no parameters."""
        super().__init__(_ROLES)
