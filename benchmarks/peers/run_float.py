"""One plain pass of the float network over the calibration images: RECIPE DATA_ROOT FOLDER - OUT.

The yardstick of time: ONNX Runtime, graph optimizations on, 2 threads; it decodes the images, as ours does.
"""

import sys
import time

STARTED = time.monotonic()

import json  # noqa: E402 (the imports are timed)
from pathlib import Path  # noqa: E402

from peer_images import note_imports  # noqa: E402

from avcompress.recipe_load import load_recipe  # noqa: E402
from calibration.batches import Batches  # noqa: E402
from calibration.source import open_source  # noqa: E402
from engines.ort import open_ort  # noqa: E402


def main(recipe_path: Path, data_root: Path, folder: Path, out: Path) -> None:
    note_imports(out, STARTED)
    recipe = load_recipe(recipe_path)
    classes = tuple(json.loads((folder / "material.json").read_text())["classes"])
    source = open_source(recipe.data.calibration, data_root, classes)
    with open_ort(folder / "float.onnx", optimize=True, threads=2) as session:
        (name,) = session.inputs
        for batch in Batches(source, recipe.preprocess, name):
            session.run(batch)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[5]))
