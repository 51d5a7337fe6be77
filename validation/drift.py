"""How far the layers of one network are from those of another, in the order of the graph."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LayerDrift:
    """One tensor that both networks compute.

    Attributes:
        layer: the node that computes it, in the reference.
        tensor: its name.
        sqnr_db: 10 log10 of the reference's energy over the difference's; infinite where they are equal.
        cosine: of the angle between both, -1 to 1.
        max_error: the largest absolute difference, in the tensor's own unit.
        amplitude: the largest absolute value of the reference.
    """

    layer: str
    tensor: str
    sqnr_db: float
    cosine: float
    max_error: float
    amplitude: float
