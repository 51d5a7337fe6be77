"""What every part of the report is made of: figures that may be missing, and intervals."""

from __future__ import annotations

from pydantic import Field

from avcompress.frozen import Measured, Model

__all__ = ["Interval", "Measured", "Range"]


class Interval(Model):
    """A figure and its confidence interval; null where there was nothing to measure it on, or no bound can be given."""

    value: Measured = Field(description="the estimate")
    low: Measured = Field(description="the low end of the interval")
    high: Measured = Field(description="the high end")


class Range(Model):
    """The least and the most that was seen."""

    low: float = Field(description="the least")
    high: float = Field(description="the most")
