"""The two networks of the recipes: what the layer map proves of their engines for SM86 and SM89."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from avcompress.files import sha256_file
from avcompress.float_network import float_network
from avcompress.quant.stages.ptq import quantize
from avcompress.recipe import Ptq, RtxEngine
from avcompress.recipe_load import load_recipe
from avcompress.spec import Artifact
from engines.layer_map import compare, read_counts
from engines.tensorrt.build import build_rtx

pytestmark = [pytest.mark.slow, pytest.mark.rtx]
RECIPES = Path(__file__).resolve().parents[3] / "recipes"
ENGINE = RtxEngine(backend="trt_rtx", compute_capabilities=("sm86", "sm89"))
# Layers planned in INT8, all weighted layers, and the least share of the multiply-accumulates.
EXPECTED = {"yolox_nano_coco": (74, 113, 0.92), "espnet_camvid": (82, 85, 0.97)}


@pytest.fixture(scope="module", params=EXPECTED)
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def artifact(name, data_root) -> Artifact:
    """The network as its recipe places Q/DQ, on ranges from noise: they decide no layer's precision."""
    pytest.importorskip("tensorrt_rtx")
    recipe = load_recipe(RECIPES / f"{name}.yaml")
    (stage,) = (stage for stage in recipe.stages if isinstance(stage, Ptq))
    model = float_network(recipe, RECIPES, data_root)
    (value,) = (value for value in model.graph.input)
    shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
    noise = np.random.default_rng(0).uniform(0, 1, shape).astype(np.float32)
    return quantize(Artifact(model), stage, [{value.name: noise}])


@pytest.fixture(scope="module")
def build(artifact, tmp_path_factory) -> Callable:
    folder = tmp_path_factory.mktemp("real")
    onnx.save(artifact.model, folder / "net.onnx")

    def run(name):
        (folder / name).mkdir()
        return build_rtx(folder / "net.onnx", folder / name, ENGINE)

    return run


def test_the_map_proves_the_planned_int8_share_layer_by_layer_and_builds_are_equal(name, artifact, build):
    first, second = build("first"), build("second")

    layers = artifact.layers
    int8, weighted, share = EXPECTED[name]
    proven = {layer.name for layer in layers if first.precisions[layer.name] == "int8"}
    assert compare(layers, first.precisions) == ()
    assert proven == {layer.name for layer in layers if layer.precision == "int8"}
    assert set(first.precisions.values()) == {"int8", "fp32"}
    assert (len(proven), len(layers)) == (int8, weighted)
    assert sum(layer.macs for layer in layers if layer.name in proven) >= share * sum(layer.macs for layer in layers)
    assert sha256_file(first.folder / "model.engine") == sha256_file(second.folder / "model.engine")
    counts = read_counts(first.folder / "layers.json")
    products = sum(count for kind in counts.products.values() for count in kind.values())
    assert products + counts.horizontal >= weighted
    assert (first.folder / "layers.json").read_bytes() == (second.folder / "layers.json").read_bytes()


def test_a_layer_that_runs_otherwise_than_planned_is_found(artifact, build):
    """The plan of one more INT8 layer, held against the engine without it."""
    built = build("third")
    last = next(layer for layer in artifact.layers if layer.precision == "float")
    plan = [
        layer if layer is not last else type(layer)(layer.name, layer.op, "int8", "", 1) for layer in artifact.layers
    ]

    (mismatch,) = compare(plan, built.precisions)

    assert (mismatch.name, mismatch.planned, mismatch.got) == (last.name, "int8", "fp32")
