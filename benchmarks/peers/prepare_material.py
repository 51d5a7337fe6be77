"""What everybody gets of one recipe, in a process of its own: RECIPE DATA_ROOT FOLDER.

Writes float.onnx, calibration/*.npy and material.json: names, classes, and the float network's weighted layers.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnx

from avcompress.files import write_atomically
from avcompress.float_network import float_network
from avcompress.recipe import Recipe, Train
from avcompress.recipe_load import load_recipe
from avcompress.spec import AvcompressError, RecipeError
from calibration.batches import Batches
from calibration.source import open_source
from engines.network import network_inputs, weighted_nodes
from engines.onnx_graph import infer_shapes, macs


def main(recipe_path: Path, data_root: Path, folder: Path) -> None:
    recipe = load_recipe(recipe_path)
    if any(isinstance(stage, Train) for stage in recipe.stages):
        raise RecipeError(f"{recipe_path}: expected stages without training, got `train`; the peers here do PTQ only")
    folder.mkdir(parents=True, exist_ok=True)
    network = float_network(recipe, recipe_path.parent, data_root)
    onnx.save(network, str(folder / "float.onnx"))
    classes = recipe.classes or open_source(recipe.data.validation, data_root).classes
    ((name, shape),) = network_inputs(network).items()
    count = write_images(recipe, classes, data_root, name, folder / "calibration")
    multiplied = macs(infer_shapes(network))
    material = {
        "name": recipe.name,
        "metrics": ["AP", "AP50"] if recipe.task.kind == "detection" else ["mIoU"],
        "classes": classes,
        "images": count,
        "input": shape,
        "layers": {layer: multiplied.get(layer, 0) for layer in weighted_nodes(network)},
    }
    write_atomically(folder / "material.json", json.dumps(material, indent=1))


def write_images(recipe: Recipe, classes: tuple[str, ...], data_root: Path, name: str, folder: Path) -> int:
    """Write every calibration image as the network takes it; returns their number."""
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.npy"):
        old.unlink()
    batches = Batches(open_source(recipe.data.calibration, data_root, classes), recipe.preprocess, name)
    count = 0
    for batch in batches:
        np.save(folder / f"{count:06d}.npy", batch[name])
        count += 1
    (folder / "input.json").write_text(json.dumps({"name": name}))
    return count


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
    except AvcompressError as error:
        sys.exit(str(error))
