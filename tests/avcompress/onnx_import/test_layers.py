"""avcompress.onnx_import.layers: weighted layers, normalizations and reductions give the numbers of ONNX Runtime."""

import numpy as np
import pytest
from onnx import helper

from avcompress.onnx_import import import_onnx
from avcompress.onnx_import.layers import LOWERINGS, torch_pads
from avcompress.spec import ModelError


def data(*shape, seed=1):
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


def const(*shape, seed=2):
    return ("c", data(*shape, seed=seed))


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"pads": [1, 1, 1, 1], "strides": [2, 2]},
        {"pads": [0, 1, 2, 1]},
        {"dilations": [2, 1], "pads": [2, 1, 2, 1]},
        {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
        {"auto_pad": "SAME_LOWER", "strides": [2, 3]},
        {"auto_pad": "VALID"},
    ],
    ids=str,
)
def test_convolution(attributes, x, check):
    check("Conv", x, const(5, 4, 3, 3), const(5), **attributes)


def test_grouped_depthwise_and_other_dimensions(x, check):
    check("Conv", x, const(8, 2, 3, 3), group=2)
    check("Conv", x, const(4, 1, 3, 3), group=4)
    check("Conv", data(1, 3, 9), const(2, 3, 3), const(2), pads=[1, 0])
    check("Conv", data(1, 2, 4, 5, 6), const(3, 2, 2, 2, 2), pads=[1] * 6)


def test_a_convolution_with_a_computed_weight(x, check):
    check("Conv", x, data(5, 4, 3, 3))


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"strides": [2, 2]},
        {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]},
        {"strides": [2, 2], "pads": [0, 1, 1, 0]},
        {"strides": [2, 2], "auto_pad": "SAME_UPPER"},
        {"strides": [2, 2], "auto_pad": "SAME_LOWER"},
        {"strides": [2, 2], "output_shape": [14, 19]},
        {"dilations": [2, 2]},
        {"auto_pad": "VALID"},
    ],
    ids=str,
)
def test_transposed_convolution(attributes, x, check):
    check("ConvTranspose", x, const(4, 3, 3, 3), const(3), **attributes)


def test_grouped_transposed_convolution(x, check):
    check("ConvTranspose", x, const(4, 3, 2, 2), group=2, strides=[2, 2])
    check("ConvTranspose", data(1, 3, 9), const(3, 2, 3), strides=[2])


@pytest.mark.parametrize("flip_a", [0, 1])
@pytest.mark.parametrize("flip_b", [0, 1])
def test_gemm(flip_a, flip_b, check):
    a, b = data(6, 2) if flip_a else data(2, 6), const(3, 6) if flip_b else const(6, 3)

    check("Gemm", a, b, const(3), transA=flip_a, transB=flip_b)
    check("Gemm", a, b, const(2, 3), transA=flip_a, transB=flip_b, alpha=0.5, beta=2.0)
    check("Gemm", a, b, transA=flip_a, transB=flip_b)


def test_matmul(check):
    check("MatMul", data(1, 5, 6), const(6, 3))
    check("MatMul", data(1, 2, 5, 6), data(1, 2, 6, 3))


def test_normalizations(x, check):
    scale, bias, mean = const(4, seed=3), const(4, seed=4), const(4, seed=5)
    check("BatchNormalization", x, scale, bias, mean, ("c", np.abs(data(4)) + 0.1), epsilon=1e-3)
    check("InstanceNormalization", x, scale, bias, epsilon=1e-3)
    check("LayerNormalization", x, const(9), const(9), epsilon=1e-3)
    check("LayerNormalization", x, const(7, 9), axis=2)
    check("LpNormalization", x, axis=1)
    check("LRN", x, size=3, alpha=0.01)


def test_group_normalization_with_a_scale_for_each_channel(x, check):
    check("GroupNormalization", x, const(4), const(4), num_groups=2, opset=21)


def test_layer_normalization_broadcasts_its_scale(x, check):
    check("LayerNormalization", x, const(1, 9), const(1, 9), axis=2)


def test_normalization_parameters_are_trained_and_statistics_are_not(x, check):
    module = check("BatchNormalization", x, const(4), const(4), const(4), ("c", np.ones(4, np.float32)))

    assert list(module.meta["parameters"]) == ["i1", "i2"]
    assert list(module.meta["buffers"]) == ["i3", "i4"]


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
def test_softmax(op, x, check):
    check(op, x, axis=1)
    check(op, x)
    check(op, x, axis=1, opset=11)  # over all dimensions from there on


@pytest.mark.parametrize("op", sorted(name for name in LOWERINGS if name.startswith("Reduce")))
def test_reductions(op, check):
    values = np.abs(data(2, 3, 4)) + 0.1
    attributes = {"axes": [1, -1]} if op != "ReduceSum" else {}
    axes = [("c", np.array([1, -1]))] if op == "ReduceSum" else []

    check(op, values, *axes, **attributes)
    check(op, values, *axes, keepdims=0, **attributes)
    check(op, values)
    check(op, values, ("c", np.array([0])), opset=18)


@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
@pytest.mark.parametrize("last", [0, 1])
def test_arguments_of_extremes(op, last, check):
    values = np.array([[1, 3, 3, 1], [2, 2, 2, 2]], np.float32)

    check(op, values, axis=1, select_last_index=last)
    check(op, values, axis=0, keepdims=0, select_last_index=last)


def test_cumulative_sums(check):
    check("CumSum", data(2, 5), ("c", np.array(1)))


def test_products_with_an_added_vector_train_it(network, agree):
    nodes = [helper.make_node("MatMul", ["x", "w"], ["p"], "p"), helper.make_node("Add", ["b", "p"], ["y"], "a")]
    feeds = {"x": data(1, 3, 6)}

    module = agree(network(nodes, feeds, {"w": data(6, 4), "b": data(4)}, ["y"]), feeds)

    assert list(module.meta["parameters"]) == ["w", "b"]


def test_training_mode_is_refused(x, network):
    names = ["x", "s", "b", "m", "v"]
    node = helper.make_node("BatchNormalization", names, ["y", "rm", "rv"], "norm", training_mode=1)
    constants = dict.fromkeys(names[1:], np.ones(4, np.float32))

    with pytest.raises(ModelError, match=r"node 'norm' \(BatchNormalization\): expected .* inference mode"):
        import_onnx(network([node], {"x": x}, constants, ["y"]))


def test_pads_in_the_order_of_torch():
    assert torch_pads((1, 2, 3, 4)) == (2, 4, 1, 3)


def test_every_operator_of_the_module_was_here():
    tested = {name for name in LOWERINGS if name.startswith("Reduce")}
    tested |= {
        "ArgMax",
        "ArgMin",
        "BatchNormalization",
        "Conv",
        "ConvTranspose",
        "CumSum",
        "Gemm",
        "GroupNormalization",
    }
    tested |= {
        "InstanceNormalization",
        "LRN",
        "LayerNormalization",
        "LogSoftmax",
        "LpNormalization",
        "MatMul",
        "Softmax",
    }
    assert set(LOWERINGS) - tested == {"RMSNormalization"}


def test_rms_normalization(check):
    check("RMSNormalization", data(2, 5), const(5), opset=23)
