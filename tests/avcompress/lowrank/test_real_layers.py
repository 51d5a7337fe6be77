"""Factors fitted to outputs against factors of weights alone, on YOLOX-nano and images of COCO."""

from pathlib import Path

import numpy as np
import pytest

from avcompress.lowrank.fitting import Aim, fitted
from avcompress.lowrank.forms import composed, highest
from avcompress.lowrank.layers import find_layers
from avcompress.lowrank.moments import measure
from avcompress.recipe_load import load_recipe
from calibration.batches import Batches
from calibration.source import open_source
from engines.onnx_graph import fold_constants, infer_shapes, name_nodes
from engines.onnx_load import load_onnx

RECIPE = Path(__file__).resolve().parents[3] / "recipes" / "yolox_nano_coco.yaml"


@pytest.mark.slow
def test_fitted_to_outputs_layers_lose_much_less_on_images_that_they_were_not_fitted_to(data_root):
    recipe = load_recipe(RECIPE)
    network = load_onnx(data_root / "models" / "yolox_nano.onnx", recipe.preprocess.size)
    network = infer_shapes(name_nodes(fold_constants(network)))
    source = open_source(recipe.data.calibration, data_root)
    batches = list(Batches(source, recipe.preprocess, network.graph.input[0].name, limit=16))
    layers = [layer for layer in find_layers(network)[0] if layer.shape[2:] == (1, 1) and layer.macs > 5e6]
    seen = measure(network, layers, batches)

    lost = []
    for layer in layers:
        rank = (highest("svd", layer.shape)[0] // 3,)
        judge = Aim(layer.weight, seen[layer.name].held_out.spread)
        ways = (Aim(layer.weight), Aim(layer.weight, seen[layer.name].learned.spread))
        lost.append([judge.error(composed("svd", fitted(aim, "svd", rank))) for aim in ways])

    by_weight, by_output = np.array(lost).T
    assert len(layers) > 20
    assert np.mean(by_output < by_weight) > 0.95
    assert np.exp(np.log(by_weight / by_output).mean()) > 1.5
