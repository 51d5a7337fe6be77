"""Fog, rain, night, glare, motion blur, noise, JPEG, dirt and wrong exposure, at severities 1-5, deterministic.

After ImageNet-C (Hendrycks and Dietterich, arXiv:1903.12261), made for the road: what a camera in a car meets.
"""

from validation.corruptions.kinds import (
    NAMES,
    SEVERITIES,
    VERSION,
    Corruption,
    corrupt,
    image_seed,
    parse_corruptions,
)
from validation.corruptions.source import CorruptedSource

__all__ = [
    "NAMES",
    "SEVERITIES",
    "VERSION",
    "CorruptedSource",
    "Corruption",
    "corrupt",
    "image_seed",
    "parse_corruptions",
]
