"""Keeps endpoints that take the decode stage of disaggregated serving."""

from __future__ import annotations

from epp_plugins.filters.by_label import ByLabelFilter, ByLabelParameters

_ROLES = ByLabelParameters(
    label="llm-d.ai/role",
    valid_values=("decode", "prefill-decode", "both", "encode-prefill-decode"),
    allows_no_label=True,
)


class DecodeFilter(ByLabelFilter):
    """Label `llm-d.ai/role` names a role with decode, or is absent: an endpoint without a role does everything."""

    def __init__(self) -> None:
        """Take no parameters."""
        super().__init__(_ROLES)
