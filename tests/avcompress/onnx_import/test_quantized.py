"""avcompress.onnx_import.quantized: networks with Q/DQ give the numbers of ONNX Runtime."""

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from avcompress.onnx_import import import_onnx
from avcompress.onnx_import.quantized import (
    cast_fp8,
    dynamic_quantize,
    quantize_linear,
    requantize,
    round_straight_through,
)
from avcompress.spec import ModelError


def pair(kind, axis=None, scale=0.1, zero=3):
    """QuantizeLinear and DequantizeLinear of x into y, and their constants."""
    attributes = {} if axis is None else {"axis": axis}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], "Q", **attributes),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], "DQ", **attributes),
    ]
    return nodes, {"s": np.array(scale, np.float32), "z": np.array(zero).astype(kind)}


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int16, np.uint16])
def test_a_pair_per_tensor(kind, x, network, agree):
    nodes, constants = pair(kind)

    agree(network(nodes, {"x": x}, constants, ["y"], 21), {"x": x})


def test_a_pair_per_channel(x, network, agree):
    nodes, constants = pair(np.int8, 1, [0.1, 0.2, 0.3, 0.4], [0, 1, -2, 3])

    agree(network(nodes, {"x": x}, constants, ["y"]), {"x": x})


def test_exact_ties_go_to_even_before_the_zero_point_is_added(network, agree):
    ties = np.arange(-140, 140, dtype=np.float32) * np.float32(0.25) + np.float32(0.125)
    nodes, constants = pair(np.int8, scale=0.25, zero=5)

    agree(network(nodes, {"x": ties}, constants, ["y"]), {"x": ties}, 0)


def test_fp8(x, network, agree):
    nodes, constants = pair(ml_dtypes.float8_e4m3fn, scale=0.01, zero=0)
    constants["z"] = helper.make_tensor("z", TensorProto.FLOAT8E4M3FN, [], [0.0])

    agree(network(nodes, {"x": x}, constants, ["y"], 19), {"x": x})


@pytest.mark.parametrize(("axis", "scale"), [(0, [0.1, 0.2]), (1, [0.1, 0.2, 0.3]), (None, 0.1)])
def test_a_weight_stored_as_integers_is_trained_as_floats(axis, scale, network, agree):
    stored = np.random.default_rng(0).integers(-128, 128, (2, 3, 1, 1)).astype(np.int8)
    attributes = {} if axis is None else {"axis": axis}
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["d"], "DQ", **attributes),
        helper.make_node("Conv", ["x", "d"], ["y"], "conv"),
    ]
    feeds = {"x": np.random.default_rng(1).normal(0, 1, (1, 3, 4, 4)).astype(np.float32)}
    constants = {"w": stored, "s": np.array(scale, np.float32)}

    module = agree(network(nodes, feeds, constants, ["y"]), feeds)

    assert module.meta["parameters"] == {"w": "w"}
    module(torch.from_numpy(feeds["x"])).sum().backward()
    assert module.w.grad is not None
    # A small step of training does not leave the grid.
    before = module(torch.from_numpy(feeds["x"]))
    with torch.no_grad():
        module.w.add_(0.01)
    assert torch.equal(module(torch.from_numpy(feeds["x"])), before)


def test_an_int32_bias(network, agree):
    nodes = [
        helper.make_node("DequantizeLinear", ["b", "s"], ["d"], "DQ"),
        helper.make_node("Add", ["x", "d"], ["y"], "add"),
    ]
    feeds = {"x": np.ones((1, 3), np.float32)}

    agree(network(nodes, feeds, {"b": np.array([1, -2, 70000], np.int32), "s": np.float32(0.001)}, ["y"]), feeds)


def test_blocks_of_four_bit_weights(network, agree):
    stored = np.random.default_rng(0).integers(-8, 8, (8, 3)).astype(ml_dtypes.int4)
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["d"], "DQ", axis=0, block_size=4),
        helper.make_node("MatMul", ["x", "d"], ["y"], "m"),
    ]
    feeds = {"x": np.random.default_rng(1).normal(0, 1, (1, 8)).astype(np.float32)}
    constants = {
        "w": numpy_helper.from_array(stored, "w"),
        "s": np.random.default_rng(2).uniform(0.1, 1, (2, 3)).astype(np.float32),
    }

    agree(network(nodes, feeds, constants, ["y"], 21), feeds)


def test_dynamic_quantization(x, network, agree):
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"], "Q"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], "DQ"),
    ]

    agree(network(nodes, {"x": x}, {}, ["y"]), {"x": x})


def test_dynamic_quantization_of_zeros_gives_zeros():
    values, scale, zero_point = dynamic_quantize(torch.zeros(3))

    assert (values.tolist(), scale.item(), zero_point.item()) == ([0, 0, 0], 1, 0)


def test_a_type_that_has_no_grid_here_is_named(x, network):
    nodes, constants = pair(np.int8)
    constants["z"] = helper.make_tensor("z", TensorProto.FLOAT8E5M2, [], [0.0])

    with pytest.raises(ModelError, match=r"node 'Q' \(QuantizeLinear\): expected 8-bit .* got FLOAT8E5M2"):
        import_onnx(network(nodes, {"x": x}, constants, ["y"], 19))


@given(st.floats(-1e6, 1e6, width=32))
def test_rounding_is_exact_and_its_gradient_is_one(value):
    x = torch.tensor(value, requires_grad=True)

    y = round_straight_through(x)
    y.backward()

    assert y.item() == float(np.rint(np.float32(value)))
    assert x.grad.item() == 1


@given(st.floats(-1000, 1000, width=32))
def test_fp8_is_the_nearest_value_and_saturates(value):
    expected = np.float32(min(max(value, -448), 448)).astype(ml_dtypes.float8_e4m3fn)

    assert cast_fp8(torch.tensor(value)).item() == float(expected)


def test_the_gradient_is_zero_outside_the_range():
    x = torch.tensor([-20.0, 0.4, 20.0], requires_grad=True)

    quantize_linear(x, torch.tensor(0.1), None, None, (-128, 127)).sum().backward()

    assert x.grad.tolist() == pytest.approx([0, 10, 0])


@given(st.integers(-128, 127), st.floats(2**-14, 100, width=32), st.integers(-128, 127))
def test_what_was_stored_is_found_again(stored, scale, zero):
    """Held as a float, it is rounded onto the same integer."""
    s, z = torch.tensor(scale), torch.tensor(float(zero))
    value = (torch.tensor(float(stored)) - z) * s

    assert requantize(value, s, z, None, 0, (-128, 127)).item() == value.item()
