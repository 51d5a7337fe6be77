"""What images a network's ranges of activations came from, and what they look like, for its engines' manifest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import numpy as np

from avcompress.files import sha256_file
from avcompress.running.compress import Compressed
from avcompress.spec import Array
from calibration import statistics
from calibration.statistics_file import load_statistics
from engines.manifest import Band, Calibration, Drive, Familiar


def calibration_facts(compressed: Compressed) -> Calibration | None:
    """The images and the statistics behind the ranges; None for a network without any."""
    if compressed.calibration is None:
        return None
    path, ranges = compressed.calibration
    found = load_statistics(path)
    images = found.images
    return Calibration(
        images=len(images),
        images_sha256=hashlib.sha256(json.dumps(images).encode()).hexdigest(),
        statistics_sha256=sha256_file(path),
        ranges=ranges,
        drives=tuple(map(_drive, found.drives)),
    )


def familiar_of(compressed: Compressed) -> Familiar | None:
    """What calibration images looked like; None for a network without any, or where nobody took their figures."""
    if compressed.calibration is None:
        return None
    return bands(load_statistics(compressed.calibration.statistics).figures)


def bands(figures: Mapping[str, Array]) -> Familiar | None:
    """The bands of figures, (images,) each; those that are not finite on every image are left out."""
    whole = {name: values for name, values in figures.items() if np.isfinite(values).all()}
    if not whole:
        return None
    ends = {name: np.percentile(values, (1, 99)) for name, values in whole.items()}
    return Familiar(
        images=len(next(iter(whole.values()))),
        figures={name: Band(low=float(low), high=float(high)) for name, (low, high) in ends.items()},
    )


def _drive(found: statistics.Drive) -> Drive:
    return Drive(
        bag=found.bag,
        sha256=found.sha256,
        topic=found.topic,
        selection=json.loads(found.settings),
        recorded_ns=found.recorded_ns,
        stamps_ns=found.stamps_ns,
    )
