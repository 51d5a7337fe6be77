"""A recipe's stages by this suite, from the float ONNX to the quantized one: RECIPE DATA_ROOT FOLDER VARIANT OUT.onnx.

VARIANT is `recipe`, or `every-conv`: depthwise convolutions in INT8 too, their inputs smoothed before.
"""

import sys
import time

STARTED = time.monotonic()

import json  # noqa: E402 (the imports are timed)
from collections.abc import Sequence  # noqa: E402
from pathlib import Path  # noqa: E402

import onnx  # noqa: E402
from peer_images import note_imports  # noqa: E402

from avcompress.quant.apply import NetworkStage, apply  # noqa: E402
from avcompress.recipe import Ptq, Smooth, Train  # noqa: E402
from avcompress.recipe_load import load_recipe  # noqa: E402
from avcompress.spec import Artifact, AvcompressError  # noqa: E402
from calibration.batches import Batches  # noqa: E402
from calibration.source import open_source  # noqa: E402
from engines.onnx_load import load_onnx  # noqa: E402


def main(recipe_path: Path, data_root: Path, folder: Path, variant: str, out: Path) -> None:
    note_imports(out, STARTED)
    recipe = load_recipe(recipe_path)
    stages: tuple[NetworkStage, ...] = tuple(stage for stage in recipe.stages if not isinstance(stage, Train))
    classes = tuple(json.loads((folder / "material.json").read_text())["classes"])
    source = open_source(recipe.data.calibration, data_root, classes)
    artifact = Artifact(load_onnx(folder / "float.onnx", recipe.preprocess.size))
    batches = Batches(source, recipe.preprocess, artifact.model.graph.input[0].name)
    for stage in with_depthwise(stages) if variant == "every-conv" else stages:
        artifact = apply(stage, artifact, batches)
    onnx.save(artifact.model, str(out))
    print(*artifact.log, sep="\n")


def with_depthwise(stages: Sequence[NetworkStage]) -> tuple[NetworkStage, ...]:
    """The same stages, but that depthwise convolutions are smoothed and quantized."""
    smoothed = any(isinstance(stage, Smooth) for stage in stages)
    found: tuple[NetworkStage, ...] = () if smoothed else (Smooth(kind="smooth"),)
    for stage in stages:
        if isinstance(stage, Ptq):
            keep = stage.keep_float.model_copy(update={"depthwise": False})
            stage = stage.model_copy(update={"keep_float": keep})  # noqa: PLW2901
        found = (*found, stage)
    return found


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4], Path(sys.argv[5]))
    except AvcompressError as error:
        sys.exit(str(error))
