"""Where a run's ranges of activations came from, for the manifest of its engines."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from avcompress.files import sha256_file
from avcompress.recipe import Ptq
from avcompress.running.bench import Bench
from avcompress.running.compress import STATISTICS
from calibration.statistics_file import load_statistics
from engines.manifest import Calibration


def calibration_facts(bench: Bench) -> Calibration | None:
    """The images and the statistics of the `ptq` stage, after it ran; None for a recipe without one."""
    for index, stage in enumerate(bench.recipe.stages):
        if isinstance(stage, Ptq):
            path = bench.inputs.get(f"stages[{index}].statistics")
            return _facts(stage, path or bench.state.folder / f"{index}-calibrate" / STATISTICS)
    return None


def _facts(stage: Ptq, path: Path) -> Calibration:
    images = load_statistics(path).images
    return Calibration(
        images=len(images),
        images_sha256=hashlib.sha256(json.dumps(images).encode()).hexdigest(),
        statistics_sha256=sha256_file(path),
        ranges=f"percentile {stage.percentile:g}" if stage.ranges == "percentile" else stage.ranges,
    )
