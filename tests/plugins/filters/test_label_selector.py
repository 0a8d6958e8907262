from __future__ import annotations

from typing import Any

import pytest
from epp_plugins.filters.label_selector import LabelSelectorFilter, LabelSelectorParameters
from pydantic import ValidationError

LABELS = [{"tier": "gold", "zone": "a"}, {"tier": "silver"}, {"zone": "b"}, {}]


def expression(operator: str, *values: str, key: str = "tier") -> dict[str, Any]:
    """Write one of `matchExpressions`."""
    return {"key": key, "operator": operator, **({"values": list(values)} if values else {})}


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({}, "1111"),
        ({"matchLabels": {}}, "1111"),
        ({"matchLabels": {"tier": "gold"}}, "1000"),
        ({"matchLabels": {"tier": "gold", "zone": "b"}}, "0000"),
        ({"matchLabels": {"tier": ""}}, "0000"),
        ({"matchExpressions": [expression("In", "gold", "silver")]}, "1100"),
        ({"matchExpressions": [expression("NotIn", "gold", "bronze")]}, "0111"),
        ({"matchExpressions": [expression("Exists")]}, "1100"),
        ({"matchExpressions": [expression("DoesNotExist")]}, "0011"),
        ({"matchExpressions": [expression("DoesNotExist"), expression("Exists", key="zone")]}, "0010"),
        ({"matchLabels": {"zone": "a"}, "matchExpressions": [expression("NotIn", "gold")]}, "0000"),
        ({"matchLabels": {"example.com/unknown": "x"}}, "0000"),
    ],
)
def test_it_selects_as_kubernetes_does(pool: Any, ask: Any, given: dict[str, Any], kept: str) -> None:
    """All requirements must hold; NotIn and DoesNotExist hold where the label is absent, In and Exists do not."""
    selector = LabelSelectorFilter(LabelSelectorParameters.model_validate(given))
    mask = selector.filter(ask(), pool(labels=LABELS).candidates())
    assert "".join(str(int(bit)) for bit in mask) == kept


def test_it_looks_at_the_candidates_only(pool: Any, ask: Any) -> None:
    """The mask is as long as the candidates, and in their order."""
    selector = LabelSelectorFilter(LabelSelectorParameters(match_labels={"tier": "silver"}))
    candidates = pool(labels=LABELS).candidates([("10.0.0.2", None), ("10.0.0.4", None)])
    assert selector.filter(ask(), candidates).tolist() == [True, False]


@pytest.mark.parametrize(
    "given",
    [
        {"matchExpressions": [expression("In")]},
        {"matchExpressions": [expression("NotIn")]},
        {"matchExpressions": [expression("Exists", "gold")]},
        {"matchExpressions": [expression("DoesNotExist", "gold")]},
        {"matchExpressions": [expression("Like", "gold")]},
        {"matchExpressions": [{"operator": "Exists"}]},
        {"matchExpressions": [expression("Exists", key="not a key")]},
        {"matchLabels": {"": "gold"}},
        {"matchLabels": {"tier": ["gold"]}},
        {"label": "tier"},
    ],
)
def test_selectors_that_make_no_sense_are_refused(given: dict[str, Any]) -> None:
    """What Kubernetes would refuse stops the start."""
    with pytest.raises(ValidationError):
        LabelSelectorParameters.model_validate(given)
