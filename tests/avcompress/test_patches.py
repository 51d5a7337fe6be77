"""avcompress.patches: rows times matrix against ONNX Runtime, attributes of Conv, Gemm and MatMul."""

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from avcompress.patches import geometry


def computed(node, data, weight):
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, data.shape)
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "net", [value], [output], [numpy_helper.from_array(weight, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return ort.InferenceSession(model.SerializeToString()).run(None, {"x": data})[0]


def by_rows(node, data, weight):
    """Every position's row times the weight's matrix, (positions, M)."""
    found = geometry(node, data.shape, weight.shape)
    rows = found.rows(data, np.arange(found.positions(data.shape)))
    return np.concatenate(list(rows @ found.matrix(weight).transpose(0, 2, 1)), axis=1)


def channels_last(output):
    return np.moveaxis(output, 1, -1).reshape(-1, output.shape[1])


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_patches_times_weights_are_the_convolution(data):
    def draw(low, high):
        return data.draw(st.integers(low, high))

    rank, group, batch = draw(1, 2), draw(1, 3), draw(1, 2)
    kernel, strides, dilations = ([draw(1, 3) for _ in range(rank)] for _ in range(3))
    pads = [draw(0, 2) for _ in range(2 * rank)]
    random = np.random.default_rng(draw(0, 99))
    x = random.standard_normal((batch, 2 * group, *[9] * rank)).astype(np.float32)
    w = random.standard_normal((3 * group, 2, *kernel)).astype(np.float32)
    node = helper.make_node(
        "Conv", ["x", "w"], ["y"], group=group, strides=strides, dilations=dilations, pads=pads, kernel_shape=kernel
    )

    assert np.allclose(by_rows(node, x, w), channels_last(computed(node, x, w)), atol=1e-4)


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_automatic_padding_is_that_of_onnx(mode, stride):
    random = np.random.default_rng(0)
    x = random.standard_normal((1, 2, 7, 8)).astype(np.float32)
    w = random.standard_normal((3, 2, 4, 3)).astype(np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"], auto_pad=mode, strides=[stride, stride])

    assert np.allclose(by_rows(node, x, w), channels_last(computed(node, x, w)), atol=1e-4)


@pytest.mark.parametrize("trans_a", [0, 1])
@pytest.mark.parametrize("trans_b", [0, 1])
def test_a_gemm_is_its_rows(trans_a, trans_b):
    random = np.random.default_rng(0)
    x = random.standard_normal((5, 4) if not trans_a else (4, 5)).astype(np.float32)
    w = random.standard_normal((4, 3) if not trans_b else (3, 4)).astype(np.float32)
    node = helper.make_node("Gemm", ["x", "w"], ["y"], transA=trans_a, transB=trans_b)

    assert np.allclose(by_rows(node, x, w), computed(node, x, w), atol=1e-5)


def test_a_product_of_a_stack_has_all_its_rows():
    random = np.random.default_rng(0)
    x = random.standard_normal((2, 5, 4)).astype(np.float32)
    w = random.standard_normal((4, 3)).astype(np.float32)
    node = helper.make_node("MatMul", ["x", "w"], ["y"])

    assert np.allclose(by_rows(node, x, w), computed(node, x, w).reshape(10, 3), atol=1e-5)


@pytest.mark.parametrize(
    ("node", "shape"),
    [
        (helper.make_node("Conv", ["x", "w"], ["y"], group=2), (4, 3, 2, 2)),
        (helper.make_node("Gemm", ["x", "w"], ["y"], transB=1), (4, 3)),
        (helper.make_node("MatMul", ["x", "w"], ["y"]), (3, 4)),
    ],
)
def test_a_weight_goes_to_a_matrix_and_back(node, shape):
    w = np.random.default_rng(0).standard_normal(shape)
    found = geometry(node, (1, 6, 8, 8), shape)

    assert np.array_equal(found.weight(found.matrix(w), shape), w)


def test_a_transposed_convolution_is_no_matrix_product():
    assert geometry(helper.make_node("ConvTranspose", ["x", "w"], ["y"]), (1, 4, 8, 8), (4, 4, 2, 2)) is None


def test_padding_that_depends_on_an_unknown_size_is_not_guessed():
    same = helper.make_node("Conv", ["x", "w"], ["y"], auto_pad="SAME_UPPER")

    assert geometry(same, (), (4, 4, 3, 3)) is None
    assert geometry(helper.make_node("Conv", ["x", "w"], ["y"]), (), (4, 4, 3, 3)) is not None
