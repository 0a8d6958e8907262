"""Keeps endpoints that take the encode stage of disaggregated serving."""

from __future__ import annotations

from epp_plugins.filters.by_label import ByLabelFilter, ByLabelParameters

_ROLES = ByLabelParameters(label="llm-d.ai/role", valid_values=("encode", "encode-prefill", "encode-prefill-decode"))


class EncodeFilter(ByLabelFilter):
    """Label `llm-d.ai/role` names a role with encode."""

    def __init__(self) -> None:
        """Take no parameters."""
        super().__init__(_ROLES)
