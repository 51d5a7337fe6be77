"""Importance by chance: what every other criterion has to beat."""

from __future__ import annotations

import zlib

import numpy as np

from avcompress.prune.groups import Coupling
from avcompress.spec import Array


def chance(coupling: Coupling, seed: int) -> dict[str, Array]:
    """Numbers between 0 and 1, the same for the same seed and group, whatever other groups there are."""
    return {
        group.name: np.random.default_rng((seed, zlib.crc32(group.name.encode()))).random(len(group.channels))
        for group in coupling.groups
    }
