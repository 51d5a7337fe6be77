"""The base of all that users write and read: models that do not change, and know every key."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _null_unless_finite(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Measured = Annotated[float | None, BeforeValidator(_null_unless_finite)]
"""A figure, or null where it could not be measured: JSON knows no NaN."""

Fraction = Annotated[float, Field(ge=0, le=1)]


class Model(BaseModel):
    """Frozen, and closed: an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
