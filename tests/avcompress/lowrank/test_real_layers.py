"""Factors fitted to outputs, and layers weighed by the network's output, on YOLOX-nano and images of COCO."""

import sys
from pathlib import Path

import numpy as np
import pytest

from avcompress.lowrank import factorize
from avcompress.lowrank.fitting import Aim, fitted
from avcompress.lowrank.forms import composed, highest
from avcompress.lowrank.layers import find_layers
from avcompress.lowrank.moments import measure
from avcompress.output_error import output_errors
from avcompress.recipe_load import load_recipe
from avcompress.recipe_lowrank import Factorize
from calibration.batches import Batches
from calibration.source import open_source
from engines.onnx_graph import fold_constants, infer_shapes, name_nodes
from engines.onnx_load import load_onnx

RECIPE = Path(__file__).resolve().parents[3] / "recipes" / "yolox_nano_coco.yaml"


@pytest.fixture
def yolox(data_root):
    """The network with named nodes and stated shapes, and images for it."""
    recipe = load_recipe(RECIPE)
    network = load_onnx(data_root / "models" / "yolox_nano.onnx", recipe.preprocess.size)
    network = infer_shapes(name_nodes(fold_constants(network)))
    source = open_source(recipe.data.calibration, data_root)
    return network, list(Batches(source, recipe.preprocess, network.graph.input[0].name, limit=40))


@pytest.mark.slow
def test_fitted_to_outputs_layers_lose_much_less_on_images_that_they_were_not_fitted_to(yolox):
    network, batches = yolox
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


@pytest.mark.slow
def test_for_the_same_speed_weighed_layers_leave_the_network_much_nearer_to_what_it_was(yolox, mac_clock, monkeypatch):
    network, batches = yolox
    learned, others = batches[:32], batches[32:]
    images = [next(iter(batch.values())) for batch in others]
    settings = Factorize(kind="factorize", rank={"speedup": 1.2})

    weighed = factorize(network, settings, learned, mac_clock)
    # By its name the module: the package has a function that is called the same.
    module = sys.modules["avcompress.lowrank.factorize"]
    monkeypatch.setattr(module, "weigh", lambda _, gains, __: dict.fromkeys(gains, 1.0))
    alike = factorize(network, settings, learned, mac_clock)

    errors = output_errors(network, [weighed.network, alike.network], images)
    assert min(done.ms_before / done.ms_after for done in (weighed, alike)) >= 1.2
    assert errors[0] < 0.7 * errors[1]
