"""avcompress.quant.analysis.inspection: what is planned for a float network, and what is found in a quantized one."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from avcompress.quant.analysis.inspection import Layer, Tensor, inspect_float, inspect_quantized, is_quantized
from avcompress.recipe import KeepFloat
from avcompress.spec import QuantParams, RecipeError
from engines.onnx_graph import infer_shapes, name_nodes
from engines.qdq import insert_dynamic_qdq, insert_qdq

INT8 = "input and weight are quantized"
TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
small (float[1,3,12,12] x) => (float y) {
    a = Conv <pads = [1,1,1,1]> (x, wa)
    p = MaxPool <kernel_shape = [2,2], strides = [2,2]> (a)
    b = Conv <pads = [1,1,1,1]> (a, wb)
    c = Conv <group = 6, pads = [1,1,1,1]> (p, wc)
    d = Conv (p, wd)
    e = ConvTranspose <strides = [2,2]> (d, we)
    f = Concat <axis = 1> (b, e)
    y = Conv (f, wy)
}
"""
SHAPES = {"wa": (6, 3, 3, 3), "wb": (2, 6, 3, 3), "wc": (6, 1, 3, 3), "wd": (4, 6, 1, 1), "we": (4, 2, 2, 2)}
SHAPES["wy"] = (5, 4, 1, 1)


@pytest.fixture
def net():
    model = parser.parse_model(TEXT)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    for name, shape in SHAPES.items():
        model.graph.initializer.append(numpy_helper.from_array(np.ones(shape, np.float32), name))
    return infer_shapes(name_nodes(model))


def quantized(model, edges, **params):
    qparams = {"a": QuantParams((0.1,), (0,)), "f": QuantParams((0.1,), (0,))}
    qparams["wb"] = QuantParams((0.1, 0.2), (0, 0), axis=0)
    qparams["wy"] = QuantParams((0.1,), (0,))
    return insert_qdq(model, edges, {**qparams, **params})


def test_a_float_network_is_planned_with_sizes_reasons_and_ties(net):
    found = inspect_float(net, KeepFloat())

    assert not found.found
    assert found.layers[0] == Layer("Conv_0", "Conv", (3, 3), (3, 6), 1, False, 6 * 144 * 27, "int8", INT8, "x")
    assert [(layer.name, layer.precision, layer.reason.partition(":")[0]) for layer in found.layers[1:]] == [
        ("Conv_2", "int8", INT8),
        ("Conv_3", "float", "depthwise"),
        ("Conv_4", "int8", INT8),
        ("ConvTranspose_5", "float", "transposed convolution"),
        ("Conv_7", "float", "head"),
    ]
    assert found.layers[2].depthwise
    assert found.tensors == (
        Tensor("x", ("Conv_0",)),
        Tensor("a", ("Conv_2",), tie=1),
        Tensor("p", ("Conv_4",), tie=1),
    )


def test_the_recipe_and_the_target_decide(net):
    named = inspect_float(net, KeepFloat(layers=("wb",)))
    on_cpu = inspect_float(net, KeepFloat(head=False), "cpu")

    assert named.layers[1].reason == "named by keep_float.layers: 'wb'"
    assert {layer.precision for layer in on_cpu.layers} == {"int8"}
    with pytest.raises(RecipeError, match=r"keep_float\.layers"):
        inspect_float(net, KeepFloat(layers=("wz",)))


def test_a_quantized_network_says_which_inputs_carry_what(net):
    model = quantized(
        net, [("Conv_2", 0), ("Conv_2", 1), ("Conv_7", 1), ("ConvTranspose_5", 0)], d=QuantParams((1.0,), (3,))
    )
    found = inspect_quantized(model)

    assert is_quantized(model)
    assert not is_quantized(net)
    assert [(layer.name, layer.precision, layer.reason) for layer in found.layers] == [
        ("Conv_0", "float", "input float, weight float"),
        ("Conv_2", "int8", "input int8, weight int8 per channel"),
        ("Conv_3", "float", "input float, weight float"),
        ("Conv_4", "float", "input float, weight float"),
        ("ConvTranspose_5", "inputs", "input int8 with zero point, weight float"),
        ("Conv_7", "weights", "input float, weight int8"),
    ]
    assert found.tensors == (Tensor("a", ("Conv_2",)), Tensor("d", ("ConvTranspose_5",)))
    assert [layer.input for layer in found.layers] == ["", "a", "", "", "d", ""]


def test_sizes_are_those_of_the_float_network(net):
    planned = inspect_float(net, KeepFloat())
    found = inspect_quantized(quantized(net, [("Conv_2", 0), ("Conv_2", 1), ("Conv_7", 1)]))

    def sizes(inspection):
        return [replace(layer, precision="", reason="", input="") for layer in inspection.layers]

    assert sizes(found) == sizes(planned)


def test_formats_that_do_not_agree_are_mixed(net):
    fp8 = QuantParams((0.1,), (0,), dtype="float8e4m3fn")
    found = inspect_quantized(quantized(net, [("Conv_2", 0), ("Conv_2", 1)], a=fp8))

    assert (found.layers[1].precision, found.layers[1].reason) == (
        "mixed",
        "input float8e4m3fn, weight int8 per channel",
    )


def test_scales_that_are_computed_or_unequal_are_named_as_such(net):
    dynamic = inspect_quantized(insert_dynamic_qdq(quantized(net, [("Conv_2", 1)]), [("Conv_2", 0)]))
    unequal = quantized(net, [("Conv_2", 0), ("Conv_2", 1)])
    unequal.graph.initializer.append(numpy_helper.from_array(np.float32(0.5), "other"))
    next(n for n in unequal.graph.node if n.op_type == "DequantizeLinear").input[1] = "other"

    for found in (dynamic, inspect_quantized(unequal)):
        layer = next(layer for layer in found.layers if layer.name == "Conv_2")
        assert layer.reason == "input by Q/DQ of unequal or computed scales, weight int8 per channel"
        assert layer.precision == "mixed"


def test_operators_that_multiply_stored_integers_are_layers():
    scale, zero = ("s", np.float32(1)), ("z", np.int8(0))
    constants = [scale, zero, ("w", np.ones((8, 4, 3, 3), np.int8))]
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
            helper.make_node("QLinearConv", ["q", "s", "z", "w", "s", "z", "s", "z"], ["c"]),
            helper.make_node("DequantizeLinear", ["c", "s", "z"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants],
    )
    found = inspect_quantized(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]))

    (layer,) = found.layers
    assert (layer.op, layer.kernel, layer.channels, layer.precision) == ("QLinearConv", (3, 3), (4, 8), "int8")


def test_an_unnamed_network_is_inspected_all_the_same(net):
    model = quantized(net, [("Conv_2", 0), ("Conv_2", 1)])
    for node in model.graph.node:
        node.name = ""
    bare = onnx.ModelProto.FromString(model.SerializeToString())

    assert [layer.precision for layer in inspect_quantized(bare).layers] == ["float", "int8", *["float"] * 4]
