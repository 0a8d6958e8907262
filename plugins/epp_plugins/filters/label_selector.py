"""Keeps endpoints by a label selector, as Kubernetes means it."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from epp.api import Candidates, Mask, Parameters, Request

_KEY = re.compile(r"([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")


def _label_key(key: str) -> str:
    if not _KEY.fullmatch(key):
        message = f"not a label key: {key!r}; it is a name of up to 63 letters, digits, `-`, `_`, `.`, maybe after `prefix/`"
        raise ValueError(message)
    return key


LabelKey = Annotated[str, AfterValidator(_label_key)]


class Requirement(BaseModel):
    """One of `matchExpressions`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: LabelKey = Field(description="The label to look at.")
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"] = Field(description="How it is compared.")
    values: tuple[str, ...] = Field(default=(), description="For In and NotIn: at least one; for the others: none.")

    @model_validator(mode="after")
    def _values_fit(self) -> Self:
        if self.operator in {"In", "NotIn"}:
            if not self.values:
                message = f"operator {self.operator} needs at least one of `values`"
                raise ValueError(message)
        elif self.values:
            message = f"operator {self.operator} takes no `values`"
            raise ValueError(message)
        return self


class LabelSelectorParameters(Parameters):
    """Parameters of `label-selector-filter`."""

    match_labels: dict[LabelKey, str] = Field(default_factory=dict, description="Labels and the values they must have.")
    match_expressions: tuple[Requirement, ...] = Field(default=(), description="Further requirements; all must hold.")


class LabelSelectorFilter:
    """All of `matchLabels` and all of `matchExpressions`; an empty selector keeps everybody.

    `NotIn` and `DoesNotExist` hold for endpoints without the label, `In` and `Exists` do not.
    """

    def __init__(self, parameters: LabelSelectorParameters) -> None:
        """Take the selector."""
        equal = [Requirement(key=key, operator="In", values=(value,)) for key, value in parameters.match_labels.items()]
        self._requirements = (*equal, *parameters.match_expressions)

    def filter(self, request: Request, pool: Candidates) -> Mask:
        """Keep those whose labels fit."""
        mask: Mask = np.ones(len(pool), dtype=np.bool_)
        for requirement in self._requirements:
            mask &= _holds(requirement, pool)
        return mask


def _holds(requirement: Requirement, pool: Candidates) -> Mask:
    labels = pool.label(requirement.key)
    mask: Mask = np.zeros(len(pool), dtype=np.bool_)
    for value in requirement.values or (None,):  # the pool gives None where the label is absent
        mask |= labels == value
    return mask if requirement.operator in {"In", "DoesNotExist"} else ~mask
