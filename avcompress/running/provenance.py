"""Where a network's ranges of activations came from, for the manifest of its engines."""

from __future__ import annotations

import hashlib
import json

from avcompress.files import sha256_file
from avcompress.running.compress import Compressed
from calibration import statistics
from calibration.statistics_file import load_statistics
from engines.manifest import Calibration, Drive


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


def _drive(found: statistics.Drive) -> Drive:
    return Drive(
        bag=found.bag,
        sha256=found.sha256,
        topic=found.topic,
        selection=json.loads(found.settings),
        recorded_ns=found.recorded_ns,
        stamps_ns=found.stamps_ns,
    )
