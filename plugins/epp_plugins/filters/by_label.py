"""Keeps endpoints by the value of one label."""

from __future__ import annotations

from typing import Self

import numpy as np
from pydantic import Field, model_validator

from epp.api import Candidates, Mask, Parameters, Request


class ByLabelParameters(Parameters):
    """Parameters of `by-label`."""

    label: str = Field(min_length=1, description="The label to look at.")
    valid_values: tuple[str, ...] = Field(default=(), description="Values that are let through.")
    allows_no_label: bool = Field(default=False, description="Whether endpoints without the label are let through.")

    @model_validator(mode="after")
    def _lets_somebody_through(self) -> Self:
        if not self.valid_values and not self.allows_no_label:
            message = "would let nobody through: give validValues, or set allowsNoLabel to true"
            raise ValueError(message)
        return self


class ByLabelFilter:
    """One of some values, or (if allowed) no such label. Deprecated in favour of `label-selector-filter`."""

    def __init__(self, parameters: ByLabelParameters) -> None:
        """Take the label and its values."""
        self._label = parameters.label
        self._values: tuple[str | None, ...] = (*parameters.valid_values, *((None,) if parameters.allows_no_label else ()))

    def filter(self, request: Request, pool: Candidates) -> Mask:
        """Keep those whose label fits."""
        labels = pool.label(self._label)
        mask: Mask = np.zeros(len(pool), dtype=np.bool_)
        for value in self._values:
            mask |= labels == value
        return mask
