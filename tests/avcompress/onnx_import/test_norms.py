"""Batch normalization of imported networks that learns its statistics: as a module, and back in the file."""

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

from avcompress.export import to_onnx
from avcompress.onnx_import import import_onnx, write_back
from avcompress.recipe_training import Training
from avcompress.train import Around, Turn, run_steps

FOUR = {
    "scale": np.array([1, 2], np.float32),
    "shift": np.array([0, 1], np.float32),
    "mean": np.array([0.5, -1], np.float32),
    "var": np.array([4, 0.25], np.float32),
}
X = torch.tensor([[[[1.0]], [[2.0]]], [[[3.0]], [[6.0]]]])  # two images of two channels: means 2 and 4


def norm(x: str, y: str, name: str, constants: tuple[str, ...] = tuple(FOUR)) -> onnx.NodeProto:
    return helper.make_node("BatchNormalization", [x, *constants], [y], name, momentum=0.75)


@pytest.fixture
def one(network):
    """A network of one normalization."""
    return network([norm("x", "y", "norm")], {"x": X[:1].numpy()}, FOUR, ["y"])


def layers(module: nn.Module) -> list[Any]:
    return [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]


def constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}


def test_statistics_of_a_batch_move_the_stored_ones_by_onnx_s_momentum(one):
    module = import_onnx(one, norms=True)

    module.train()(X)

    new = constants(write_back(module, one))
    np.testing.assert_allclose(new["mean"], [0.75 * 0.5 + 0.25 * 2, 0.75 * -1 + 0.25 * 4])
    np.testing.assert_allclose(new["var"], [0.75 * 4 + 0.25 * 2, 0.75 * 0.25 + 0.25 * 8])  # of a batch: unbiased
    assert (new["scale"].tolist(), new["shift"].tolist()) == ([1, 2], [0, 1])


def test_a_network_that_was_not_trained_keeps_its_bytes(one):
    module = import_onnx(one, norms=True)

    assert write_back(module, one).SerializeToString() == one.SerializeToString()
    with torch.no_grad():
        assert torch.equal(module(X), import_onnx(one)(X))


@pytest.mark.parametrize(
    ("mode", "means"),
    [("frozen", [0.5, -1]), ("train", [1.15625, 1.1875]), ("reestimate", [2, 4])],
)
def test_normalization_of_a_file_is_trained_frozen_or_estimated_anew(one, mode, means):
    """Trained: 0.5 -> 0.875 -> 1.15625, -1 -> 0.25 -> 1.1875 in two steps."""
    settings = Training(steps=2, batch_norm=mode, ema=0, learning_rate=1e-9)
    module = import_onnx(one, norms=True)
    around = Around(inputs=lambda _: X)

    def loss_of(_: Turn) -> torch.Tensor:
        return module(X).square().mean()

    trained = run_steps(module, settings, loss_of, around).module

    np.testing.assert_allclose(constants(write_back(trained, one))["mean"], means, rtol=1e-6)


def test_nodes_with_the_same_constants_are_one_layer(network):
    nodes = [norm("x", "a", "first"), norm("a", "y", "second")]
    model = network(nodes, {"x": X[:1].numpy()}, FOUR, ["y"])

    module = import_onnx(model, norms=True)

    assert len(layers(module)) == 1
    with torch.no_grad():
        assert torch.equal(module(X), import_onnx(model)(X))


def test_a_normalization_whose_constants_others_read_keeps_its_statistics(network):
    shared = ("scale", "shift", "mean", "other")
    nodes = [norm("x", "a", "first"), norm("a", "b", "second", shared), helper.make_node("Relu", ["b"], ["y"], "relu")]
    model = network(nodes, {"x": X[:1].numpy()}, {**FOUR, "other": FOUR["var"] + 1}, ["y"])

    module = import_onnx(model, norms=True)
    module.train()(X)

    assert layers(module) == []
    assert write_back(module, model).SerializeToString() == model.SerializeToString()


@pytest.mark.parametrize("kind", ["twice", "half", "output"])
def test_constants_that_cannot_be_told_apart_stay_as_they_are(network, kind):
    values: dict[str, Any] = dict(FOUR)
    names, outputs = tuple(FOUR), ["y"]
    if kind == "twice":
        names = ("scale", "shift", "mean", "scale")
    if kind == "half":
        values = {name: value.astype(np.float16) for name, value in FOUR.items()}
    if kind == "output":
        outputs = ["y", "mean"]
    x = X[:1].numpy().astype(values["mean"].dtype)
    model = network([norm("x", "y", "norm", names)], {"x": x}, values, outputs)

    assert layers(import_onnx(model, norms=True)) == []


def test_a_network_imported_with_other_norms_than_it_was_trained_with_is_written_back_all_the_same(one):
    plain, learning = import_onnx(one), import_onnx(one, norms=True)
    with torch.no_grad():
        plain.get_parameter(plain.meta["parameters"]["scale"]).add_(1)
        learning.get_parameter(learning.meta["parameters"]["scale"]).add_(1)

    assert write_back(plain, one).SerializeToString() == write_back(learning, one).SerializeToString()


@pytest.mark.parametrize("name", ["densenet", "mobilenet_v2", "preactivation"])
def test_an_exported_module_trains_its_normalization_as_the_module_itself_does(torch_network, name):
    """What three batches leave in the statistics, and what the last one gives."""
    original = torch_network(name)
    model = to_onnx(original, (64, 64), keep_norms=True)
    imported = import_onnx(model, norms=True).train()
    original.train()

    batches = torch.randn(3, 4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted, found = [[net(batch) for batch in batches][-1] for net in (original, imported)]

    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4 * float(wanted.abs().max()))
    assert len(layers(imported)) == len(layers(original)) > 0
    kept = constants(write_back(imported, model))
    for place, value in original.state_dict().items():
        if "running" in place:
            np.testing.assert_allclose(kept[place], value, rtol=1e-3, atol=1e-4)
