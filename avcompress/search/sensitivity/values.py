"""The outcome of a sensitivity analysis: by group and precision, what is lost when that group alone is in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from avcompress.spec import DataError, Precision

Kind = Literal["output", "metric", "fisher", "hessian"]
Losses = Mapping[str, Mapping[Precision, float]]
"""By group, then by precision."""


@dataclass(frozen=True)
class Sensitivity:
    """What groups lose, each alone.

    Attributes:
        kind: of the measure, which is also the unit.
            output: the squared movement of the network's answers, the mean over images; the task's units are those of
                `distill.movement`.
            metric: the metric of the float network less that of the changed one; below 0 where it gained.
            fisher: as `output`, by gradients at the float network, each number's error for itself.
            hessian: the mean curvature of a group's weights times their squared error.
        losses: 0 of FP32.
        images: that it was measured on.
    """

    kind: Kind
    losses: Losses
    images: int

    def loss(self, group: str, precision: Precision) -> float:
        """What a group loses in a precision; raises DataError where it was not measured."""
        if precision == "fp32":
            return 0.0
        found = self.losses.get(group, {}).get(precision)
        if found is None:
            raise DataError(
                f"sensitivity: expected what group {group!r} loses in {precision}, it was not measured; measure "
                "it with the precisions that may be chosen"
            )
        return found
