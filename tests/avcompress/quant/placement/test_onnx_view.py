"""avcompress.quant.placement.onnx_view: what the policy sees of an ONNX graph."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from avcompress.quant.placement.onnx_view import graph_view
from avcompress.quant.placement.policy import Weight
from engines.onnx_graph import infer_shapes, name_nodes


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


# --- what the front end brings into one form


def described(text, **constants):
    """The operators of a network in ONNX's text form, for a 1x4x6x6 image x."""
    opset = constants.pop("opset", 17)
    parsed = parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : {opset}]> g (float[1,4,6,6] x) => (float y) {{ {text} }}'
    )
    parsed.graph.output[0].type.tensor_type.ClearField("shape")
    parsed.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    return graph_view(infer_shapes(name_nodes(parsed))).ops


@pytest.mark.parametrize(
    ("text", "constants", "kind"),
    [
        ("y = GlobalAveragePool(x)", {}, "GlobalAveragePool"),
        ("y = ReduceMean<axes=[2,3], keepdims=1>(x)", {}, "GlobalAveragePool"),
        ("y = ReduceMean<axes=[-1,-2], keepdims=0>(x)", {}, "GlobalAveragePool"),
        ("y = ReduceMean<keepdims=1>(x, a)", {"a": np.array([2, 3]), "opset": 18}, "GlobalAveragePool"),
        ("y = ReduceMax<axes=[2,3]>(x)", {}, "GlobalMaxPool"),
        ("y = AveragePool<kernel_shape=[6,6]>(x)", {}, "GlobalAveragePool"),
        ("y = MaxPool<kernel_shape=[6,6]>(x)", {}, "GlobalMaxPool"),
        ("y = ReduceMean<axes=[1], keepdims=1>(x)", {}, "ReduceMean"),
        ("y = ReduceMean(x)", {}, "ReduceMean"),
        ("y = ReduceMean<axes=[1,2,3]>(x)", {}, "ReduceMean"),
        ("y = AveragePool<kernel_shape=[3,3]>(x)", {}, "AveragePool"),
        ("y = AveragePool<kernel_shape=[3,3], strides=[6,6]>(x)", {}, "AveragePool"),
        ("y = MaxPool<kernel_shape=[5,5], pads=[2,2,2,2]>(x)", {}, "MaxPool"),
    ],
)
def test_a_mean_over_all_positions_has_one_name(text, constants, kind):
    assert [op.kind for op in described(text, **constants)] == [kind]


TWICE = {"s": np.array([1, 1, 2, 2], np.float32)}
PADS = {"p": np.array([0, 0, 1, 1, 0, 0, 1, 1])}


@pytest.mark.parametrize(
    ("text", "constants", "moves"),
    [
        ('y = Resize<mode="nearest">(x, , s)', TWICE, True),
        ("y = Resize(x, , s)", TWICE, True),  # nearest is the default
        ('y = Resize<mode="linear">(x, , s)', TWICE, False),
        ('y = Resize<mode="cubic">(x, , s)', TWICE, False),
        ("y = Pad(x, p)", PADS, True),
        ("y = Pad(x, p, v)", {**PADS, "v": np.float32(0)}, True),
        ("y = Pad(x, p, v)", {**PADS, "v": np.float32(114)}, False),
        ('y = Pad<mode="reflect">(x, p)', PADS, True),
        ('y = Pad<mode="edge">(x, p)', PADS, True),
        ("y = Relu(x)", {}, False),
    ],
)
def test_resizing_and_padding_say_whether_they_only_move_values(text, constants, moves):
    assert [op.moves for op in described(text, **constants)] == [moves]


@pytest.mark.parametrize(
    ("kind", "shape", "attributes", "channels", "groups", "kernel"),
    [
        ("Conv", (8, 4, 3, 5), {}, (4, 8), 1, (3, 5)),
        ("Conv", (8, 2, 3, 3), {"group": 2}, (4, 8), 2, (3, 3)),
        ("ConvTranspose", (4, 3, 2, 2), {"group": 2}, (4, 6), 2, (2, 2)),
        ("Gemm", (8, 4), {"transB": 1}, (4, 8), 1, ()),
        ("Gemm", (4, 8), {}, (4, 8), 1, ()),
        ("MatMul", (6, 8), {}, (6, 8), 1, ()),
        ("MatMul", (6,), {}, (0, 0), 1, ()),
    ],
)
def test_a_weighted_operator_has_its_size(kind, shape, attributes, channels, groups, kernel):
    op = seen(helper.make_node(kind, ["x", "w"], ["y"], "n", **attributes), np.ones(shape, np.float32))

    assert (op.channels, op.groups, op.kernel) == (channels, groups, kernel)
