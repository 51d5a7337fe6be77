"""A CUDA device."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Device:
    """A GPU: what it is, not which one of its kind.

    Attributes:
        compute_capability: as 8.7.
        driver: the CUDA version that the driver offers, and the driver's own version where it tells.
    """

    name: str
    compute_capability: str
    driver: str
