import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from engines.lint import lint
from engines.lint.view import views


def test_a_quantize_linear_is_described(net):
    n = net()
    view = next(views(n.model(n.qdq("x", np.full(16, 0.5, np.float32), np.full(16, 7, np.uint8), axis=-3))))

    quantize, dequantize = view.quants.values()

    assert (quantize.tensor, quantize.quantizes, quantize.dtype, quantize.axis) == ("x", True, TensorProto.UINT8, 1)
    assert quantize.same_grid(dequantize)
    assert view.pair(dequantize.output) == (quantize, dequantize)
    np.testing.assert_array_equal(quantize.scale, np.full(16, 0.5, np.float32))
    np.testing.assert_array_equal(dequantize.zero_point, np.full(16, 7))


@pytest.mark.parametrize(("opset", "extra", "kind"), [(17, {}, "UINT8"), (21, {"output_dtype": 3}, "INT8")])
def test_the_type_without_a_zero_point_is_the_stated_one_or_onnx_s_default(net, opset, extra, kind):
    n = net(opset=opset)
    scale = n.constant(np.float32(0.1))
    quantized = n.op("QuantizeLinear", "x", scale, **extra)
    view = next(views(n.model(n.op("DequantizeLinear", quantized, scale))))

    assert {TensorProto.DataType.Name(quant.dtype) for quant in view.quants.values()} == {kind}
    assert view.quants[quantized].explicit == bool(extra)


def test_nodes_that_share_a_name_or_have_none_are_told_apart(net):
    n = net()
    first = n.op("Relu", "x", name="same")
    second = n.op("Relu", first, name="same")
    model = n.model(n.op("Tanh", second, name="other"))
    model.graph.node[1].name = ""
    view = next(views(model))

    assert [view.label(node) for node in view.nodes] == ["same", f"Relu -> {second}", "other"]


def test_what_is_computed_from_constants_is_constant(net):
    n = net()
    product = n.op("Mul", n.constant(np.float32(2)), n.op("Identity", n.constant(np.float32(3))))
    made = n.op("Mul", "x", product)
    view = next(views(n.model(made)))

    assert product in view.constant
    assert made not in view.constant
    assert view.array(product) is None  # known to be constant, not computed here


def test_subgraphs_are_looked_at_and_not_repaired(net):
    branches = []
    for name in "ab":
        n = net()
        made = n.qdq("x", zero=np.int8(3))
        output = helper.make_tensor_value_info(made, TensorProto.FLOAT, [1, 16, 16, 16])
        branches.append(helper.make_graph(n.nodes, name, [], [output], n.values))
    n = net()
    condition = n.op("Greater", n.op("ReduceMax", "x", keepdims=0), n.constant(np.float32(0)))
    model = n.model(n.op("If", condition, then_branch=branches[0], else_branch=branches[1]))

    found = [finding for finding in lint(model, "tensorrt-rtx") if finding.rule == "zero_point"]

    assert found
    assert not any(finding.fixable for finding in found)


@pytest.mark.parametrize("opset", range(11, 24))
def test_every_opset_from_11_on_is_read(net, opset):
    n = net(opset=opset)
    model = n.model(n.conv("", data=n.qdq("x", zero=np.int8(3)), weight=n.floats(32, 16, 3, 3)))

    found = {(finding.rule, finding.severity) for finding in lint(model, "tensorrt-10")}

    assert {("zero_point", "refused"), ("activation_only", "slower")} <= found


def test_a_dynamic_batch_is_no_obstacle(net):
    n = net(x=("batch", 16, "height", "width"))

    found = lint(n.model(n.conv("", data=n.qdq("x", zero=np.uint8(0)))), "tensorrt-11")

    assert {"uint8", "dynamic_shape"} <= {finding.rule for finding in found}


def test_a_shared_weight_is_judged_with_each_layer(net):
    n = net()
    weight = n.weight(16, 16, 3, 3)
    model = n.model(n.conv(n.conv("x", weight=weight, name="c0"), weight=weight, data="t1", name="c1"))
    model.graph.node[-1].input[0] = model.graph.node[-2].output[0]

    found = [f.where for f in lint(model, "tensorrt-rtx") if f.rule == "weight_only"]

    assert found == ["c1"]


def test_a_graph_whose_shapes_do_not_fit_is_still_read(net):
    n = net()
    model = n.model(n.op("Add", n.qdq("x", zero=np.int8(3)), n.floats(1, 16, 5, 16)))
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    with pytest.raises(onnx.shape_inference.InferenceError):
        onnx.shape_inference.infer_shapes(model, strict_mode=True)

    assert "zero_point" in {finding.rule for finding in lint(model, "tensorrt-rtx")}
