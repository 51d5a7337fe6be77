"""write_back: what was trained lands in the network's own initializers, and nothing else changes."""

import copy

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from avcompress.onnx_import import import_onnx, write_back
from avcompress.recipe_training import Train
from avcompress.spec import ModelError
from avcompress.train import run_steps
from engines.onnx_load import load_onnx


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def image(*shape, seed=0):
    return np.random.default_rng(seed).normal(0, 1, shape or (1, 3, 64, 64)).astype(np.float32)


def run(model, feeds):
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(None, feeds)


def train_a_little_(module):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.02 * parameter.abs().mean() * torch.randn(parameter.shape, generator=generator))


def test_an_untrained_module_gives_the_network_s_own_bytes(architecture, onnx_network):
    model = onnx_network(architecture)

    assert write_back(copy.deepcopy(import_onnx(model)), model).SerializeToString() == model.SerializeToString()


def trained(module):
    """The module after two steps of the training loop, on two images, towards nine tenths of its outputs."""
    images = torch.from_numpy(image(2, 3, 64, 64))
    with torch.no_grad():
        wanted = [0.9 * output for output in flat(module(images))]

    def loss_of(_):
        return sum((a - b).square().mean() for a, b in zip(flat(module(images)), wanted, strict=True))

    facts = {"kind": "train", "steps": 2, "learning_rate": 0.02, "rates": "relative", "ema": 0}
    return run_steps(module, Train.model_validate(facts), loss_of).module


def flat(value):
    return value if isinstance(value, tuple) else (value,)


def test_a_network_that_is_imported_trained_and_written_back_gives_what_was_trained(architecture, onnx_network):
    model = onnx_network(architecture)
    before = run(model, {"images": image()})

    module = trained(import_onnx(model))
    new = write_back(module, model)

    with torch.no_grad():
        expected = flat(module(torch.from_numpy(image())))
    moved = []
    for got, wanted, old in zip(run(new, {"images": image()}), expected, before, strict=True):
        scale = max(float(wanted.abs().max()), 1e-6)
        np.testing.assert_allclose(got, wanted.numpy(), rtol=0, atol=1e-4 * scale)
        moved.append(np.abs(got - old).max() / scale)
    assert max(moved) > 1e-3  # else nothing was trained that could have been lost
    assert [n.name for n in new.graph.node] == [n.name for n in model.graph.node]
    assert [i.name for i in new.graph.initializer] == [i.name for i in model.graph.initializer]
    assert (new.graph.input, new.graph.output) == (model.graph.input, model.graph.output)


@pytest.fixture
def computed(network):
    """A weight behind a Transpose, one in a Constant node, and one that is also read as it is."""
    rng = np.random.default_rng(0)
    w = rng.normal(0, 1, (4, 4)).astype(np.float32)
    nodes = [
        helper.make_node("Transpose", ["w"], ["wt"], "t", perm=[1, 0]),
        helper.make_node("Constant", [], ["c"], "c", value=numpy_helper.from_array(w + 1)),
        helper.make_node("MatMul", ["x", "wt"], ["a"], "m0"),
        helper.make_node("MatMul", ["a", "c"], ["b"], "m1"),
        helper.make_node("MatMul", ["b", "w"], ["y"], "m2"),
    ]
    return network(nodes, {"x": image(2, 4)}, {"w": w}, ["y"])


def test_a_constant_that_the_network_computes_becomes_an_initializer_of_its_name(computed):
    module = import_onnx(computed)
    train_a_little_(module)

    new = write_back(module, computed)

    onnx.checker.check_model(new)
    assert [n.name for n in new.graph.node] == ["c", "m0", "m1", "m2"]
    assert {i.name for i in new.graph.initializer} == {"w", "wt"}
    with torch.no_grad():
        np.testing.assert_allclose(
            run(new, {"x": image(2, 4)})[0], module(torch.from_numpy(image(2, 4))).numpy(), atol=1e-4
        )


@pytest.fixture
def quantized(network):
    """A weight stored as INT8 with one scale a row, by hand."""
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["w"], "dq", axis=0),
        helper.make_node("Conv", ["x", "w"], ["y"], "conv"),
    ]
    constants = {
        "q": np.array([[[[3]]], [[[-128]]]], np.int8),
        "s": np.array([0.5, 0.25], np.float32),
        "z": np.zeros(2, np.int8),
    }
    return network(nodes, {"x": image(1, 1, 2, 2)}, constants, ["y"])


def stored(model, name):
    return numpy_helper.to_array(next(i for i in model.graph.initializer if i.name == name)).flatten().tolist()


def test_a_weight_of_integers_is_rounded_onto_its_grid_by_the_scale_of_the_module(quantized):
    module = import_onnx(quantized)
    with torch.no_grad():
        module.q += torch.tensor([0.3, -5.0]).reshape(2, 1, 1, 1)  # 1.8 and -37

    assert stored(write_back(module, quantized), "q") == [4, -128]  # 3.6 steps, and below the smallest

    module.s.copy_(torch.tensor([0.1, 1.0]))
    new = write_back(module, quantized)
    assert stored(new, "q") == [18, -37]
    assert stored(new, "s") == pytest.approx([0.1, 1.0])
    assert next(i for i in new.graph.initializer if i.name == "q").data_type == TensorProto.INT8


def test_a_bias_of_32_bits_keeps_every_bit_unless_it_is_trained(network):
    nodes = [
        helper.make_node("DequantizeLinear", ["b", "s"], ["bias"], "dq"),
        helper.make_node("Conv", ["x", "w", "bias"], ["y"], "conv"),
    ]
    constants = {
        "b": np.array([123456789], np.int32),
        "s": np.array(1e-6, np.float32),
        "w": image(1, 1, 1, 1),
    }
    model = network(nodes, {"x": image(1, 1, 2, 2)}, constants, ["y"])
    module = import_onnx(model)
    with torch.no_grad():
        module.w += 1
    assert stored(write_back(module, model), "b") == [123456789]

    with torch.no_grad():
        module.b += 1
    assert stored(write_back(module, model), "b")[0] == pytest.approx(124456789, abs=30)


def test_a_module_of_another_network_is_refused(computed, quantized):
    with pytest.raises(ModelError, match="expected a module that import_onnx made of this network"):
        write_back(import_onnx(computed), quantized)


@pytest.mark.slow
def test_yolox_nano_survives_the_round_trip(data_root):
    model = load_onnx(data_root / "models" / "yolox_nano.onnx")
    pixels = np.random.default_rng(0).uniform(0, 255, (1, 3, 416, 416)).astype(np.float32)
    module = import_onnx(model)

    assert write_back(module, model).SerializeToString() == model.SerializeToString()
    train_a_little_(module)
    with torch.no_grad():
        expected = module(torch.from_numpy(pixels)).numpy()
    (found,) = run(write_back(module, model), {"images": pixels})
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
