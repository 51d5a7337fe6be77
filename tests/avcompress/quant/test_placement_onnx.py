"""avcompress.quant.placement_onnx: what the policy sees of an ONNX graph."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from avcompress.quant.placement import Weight
from avcompress.quant.placement_onnx import graph_view


def model(node, *constants, data=(1, 4, 6, 6), extra=()):
    graph = helper.make_graph(
        [*extra, node],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, data)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None])],
        [numpy_helper.from_array(value, name) for name, value in constants],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def seen(node, weight):
    return graph_view(model(node, ("w", weight))).ops[-1]


@pytest.mark.parametrize(
    ("kind", "shape", "attributes", "axis", "depthwise"),
    [
        ("Conv", (8, 4, 3, 3), {}, 0, False),
        ("Conv", (4, 1, 3, 3), {"group": 4}, 0, True),
        ("Conv", (4, 2, 3, 3), {"group": 2}, 0, False),
        ("Conv", (8, 1, 3, 3), {}, 0, False),  # a grey image
        ("ConvTranspose", (4, 8, 2, 2), {}, 1, False),
        ("Gemm", (8, 4), {"transB": 1}, 0, False),
        ("Gemm", (4, 8), {}, 1, False),
        ("MatMul", (4, 8), {}, 1, False),
    ],
)
def test_a_weighted_operator_has_its_weight_and_the_axis_of_its_outputs(kind, shape, attributes, axis, depthwise):
    op = seen(helper.make_node(kind, ["x", "w"], ["y"], "n", **attributes), np.ones(shape, np.float32))

    assert (op.kind, op.weight, op.depthwise, op.obstacle) == (kind, Weight("w", 1, axis), depthwise, "")


@pytest.mark.parametrize(
    ("kind", "weight", "obstacle"),
    [
        ("Conv", np.ones((8, 4, 3, 3), np.float16), "weight of type FLOAT16"),
        ("MatMul", np.ones((4, 6, 8), np.float32), "weight of rank 3"),
    ],
)
def test_a_weight_that_cannot_be_int8_is_an_obstacle(kind, weight, obstacle):
    assert seen(helper.make_node(kind, ["x", "w"], ["y"], "n"), weight).obstacle == obstacle


def test_a_computed_weight_is_none():
    view = graph_view(model(helper.make_node("MatMul", ["x", "x"], ["y"], "n")))

    assert view.ops[0].weight is None


def test_an_operator_of_another_domain_is_opaque():
    op = seen(helper.make_node("Conv", ["x", "w"], ["y"], "n", domain="com.acme"), np.ones((8, 4, 3, 3), np.float32))

    assert (op.kind, op.weight) == ("com.acme.Conv", None)


def test_what_a_branch_captures_is_an_input():
    branch = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["t"])], "b", [], [helper.make_tensor_value_info("t", 1, None)]
    )
    view = graph_view(model(helper.make_node("If", ["yes"], ["y"], "n", then_branch=branch, else_branch=branch)))

    assert "x" in view.ops[0].inputs


def test_outputs_and_constants_are_named():
    view = graph_view(model(helper.make_node("MatMul", ["x", "w"], ["y"], "n"), ("w", np.ones((6, 8), np.float32))))

    assert (view.outputs, view.constants) == (("y",), frozenset({"w"}))
