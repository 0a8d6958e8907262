from __future__ import annotations

from typing import Any

import pytest
from epp_plugins.filters.by_label import ByLabelFilter, ByLabelParameters
from pydantic import ValidationError


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"label": "tier", "validValues": ["a"]}, [True, False, False]),
        ({"label": "tier", "validValues": ["a", "b"]}, [True, True, False]),
        ({"label": "tier", "validValues": ["a"], "allowsNoLabel": True}, [True, False, True]),
        ({"label": "tier", "allowsNoLabel": True}, [False, False, True]),
    ],
)
def test_the_label_decides(pool: Any, ask: Any, given: dict[str, Any], kept: list[bool]) -> None:
    """One of the values, or no label where that is allowed."""
    plugin = ByLabelFilter(ByLabelParameters.model_validate(given))
    assert plugin.filter(ask(), pool(labels=[{"tier": "a"}, {"tier": "b"}, {}]).candidates()).tolist() == kept


@pytest.mark.parametrize("given", [{}, {"label": ""}, {"label": "tier"}, {"label": "tier", "values": ["a"]}])
def test_parameters_that_make_no_sense_are_refused(given: dict[str, Any]) -> None:
    """No label, or nobody who could pass."""
    with pytest.raises(ValidationError):
        ByLabelParameters.model_validate(given)
