"""engines.dialects.prepare, planned, weights, notes: files of any tool brought into one form."""

import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, external_data_helper, helper, numpy_helper

from avcompress.spec import ModelError, QuantParams
from engines.dialects import DialectSettings, express
from engines.dialects.notes import grouped
from engines.dialects.planned import planned_precisions
from engines.dialects.prepare import prepared, read_quantized
from engines.dialects.weights import with_float_weights, with_stored_weights
from engines.qdq import insert_qdq

RNG = np.random.default_rng(10)
X = RNG.standard_normal((1, 4, 8, 8)).astype(np.float32)
W = {name: RNG.standard_normal((4, 4, 3, 3)).astype(np.float32) / 4 for name in "uvw"}
BODY = "a = Conv<pads=[1,1,1,1]>(x, u) b = Relu(a) c = Conv<pads=[1,1,1,1]>(b, v) d = Relu(c) y = Conv(d, w)"


@pytest.fixture
def model(net, with_scales):
    return with_scales(net(BODY, W), {"x": 0.03, "b": 0.02})


@pytest.fixture
def file(model, tmp_path):
    """A file whose weights lie beside it."""
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))
    external_data_helper.convert_model_to_external_data(model, location="weights.bin", size_threshold=0)
    onnx.save(model, tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


@pytest.mark.parametrize("dialect", ["strong", "weak", "dla-implicit"])
def test_weights_in_another_file_are_read_with_it(net, with_scales, ort, file, dialect):
    read = read_quantized(file)

    found = express(read, DialectSettings(dialect=dialect, newest_opset=19))

    assert found.precisions["Conv_0"] == "int8"
    whole = with_scales(net(BODY, W), {"x": 0.03, "b": 0.02})
    assert np.array_equal(ort(read, X)[0], ort(whole, X)[0])


def test_a_missing_or_short_weights_file_is_named(file):
    weights = file.with_name("weights.bin")
    weights.write_bytes(weights.read_bytes()[:10])
    with pytest.raises(ModelError, match=r"net\.onnx: expected readable weights of 'w' in 'weights\.bin'"):
        read_quantized(file)
    weights.unlink()
    with pytest.raises(ModelError, match=r"net\.onnx: expected the weights file 'weights\.bin' beside it"):
        read_quantized(file)


def test_functions_are_inlined_and_constants_leave_the_inputs(net):
    model = net("a = Relu(x) y = Conv(a, w)", W)
    body = [helper.make_node("Relu", ["p"], ["q"])]
    model.functions.append(helper.make_function("own", "Twice", ["p"], ["q"], body, [helper.make_opsetid("", 17)]))
    model.opset_import.append(helper.make_opsetid("own", 1))
    model.graph.node[0].op_type, model.graph.node[0].domain = "Twice", "own"
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, (4, 4, 3, 3)))

    new, _ = prepared(model)

    assert [node.op_type for node in new.graph.node] == ["Relu", "Conv"]
    assert [value.name for value in new.graph.input] == ["x"]
    assert len(model.functions) == 1


def test_constant_nodes_hold_scales_as_well_as_initializers_do(model, ort):
    """As PyTorch exports them."""
    moved = [t for t in model.graph.initializer if t.name.endswith(("_scale", "_zero_point"))]
    for tensor in moved:
        node = helper.make_node("Constant", [], [tensor.name], value=tensor)
        model.graph.initializer.remove(tensor)
        model.graph.node.insert(0, node)

    for dialect in ("strong", "weak", "dla-implicit"):
        found = express(model, DialectSettings(dialect=dialect, newest_opset=19, float_type="fp32"))
        assert found.precisions["Conv_0"] == "int8"
        assert (found.precisions["Conv_2"] == "int8") is (dialect != "dla-implicit")  # its output has no scale


def test_an_invalid_network_is_refused_in_one_line(model):
    del model.graph.node[0]

    with pytest.raises(ModelError) as caught:
        express(model, DialectSettings(dialect="strong", newest_opset=23))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dialect", ["strong", "weak", "dla-implicit"])
def test_a_misspelt_node_is_refused_with_the_nearest_name(model, dialect):
    settings = DialectSettings(dialect=dialect, newest_opset=19, keep_float={"Conv4": "asked for"})

    with pytest.raises(
        ModelError, match=r"keep_float: expected names of the network's nodes, got 'Conv4'; did you mean"
    ):
        express(model, settings)


@pytest.mark.parametrize("dialect", ["strong", "weak", "dla-implicit"])
def test_a_kept_node_that_is_written_by_others_keeps_them_all(net, dialect):
    body = "c = Conv<pads=[1,1,1,1]>(x, w) g = Gelu(c) y = Conv(g, v)"
    model = net(body, {"w": W["w"], "v": W["v"]}, opset=20)
    keep = {"Gelu_1": "asked for"}
    settings = DialectSettings(dialect=dialect, newest_opset=19, keep_float=keep, gpu_fallback="list")

    found = express(model, settings)

    inside = [node for node in found.model.graph.node if node.name.startswith("Gelu_1/")]
    kind = {"dla-implicit": "fp16", "weak": "fp32"}.get(dialect)
    assert len(inside) == 5
    if kind is not None:
        assert {found.precisions[node.name] for node in inside} == {kind}
    else:
        known = {value.name: value.type.tensor_type.elem_type for value in found.model.graph.value_info}
        assert {known[node.output[0]] for node in inside} == {TensorProto.FLOAT}


def test_float_networks_are_expressed_too(net, ort):
    for dialect in ("strong", "weak", "dla-implicit"):
        found = express(net(BODY, W), DialectSettings(dialect=dialect, newest_opset=17))
        assert set(found.precisions.values()) <= {"fp16", "fp32"}
        assert np.allclose(ort(found.model, X)[0], ort(net(BODY, W), X)[0], atol=0.01)


def test_the_planned_precision_needs_both_operands(net):
    eight = {name: QuantParams((0.02,), (0,), "float8e4m3fn") for name in ("x", "u")}
    mixed = {"d": QuantParams((0.02,), (0,)), "v": QuantParams((0.02,), (0,))}
    model = insert_qdq(
        net(BODY, W, opset=19), [("Conv_0", 0), ("Conv_0", 1), ("Conv_2", 1), ("Conv_4", 0)], eight | mixed
    )

    assert planned_precisions(model) == {"Conv_0": "fp8", "Conv_2": "fp32", "Conv_4": "fp32"}


def test_stored_weights_and_float_ones_go_back_and_forth(model):
    back = with_stored_weights(with_float_weights(model))

    def integers(network):
        return sorted(numpy_helper.to_array(t).tobytes() for t in network.graph.initializer if t.data_type == 3)

    assert integers(back) == integers(model)
    assert with_stored_weights(model) is model


@pytest.mark.parametrize(("body", "shape", "axis"), [("ConvTranspose", (4, 6, 2, 2), 1), ("MatMul", (8, 5), 1)])
def test_axes_of_weights_are_kept(net, with_scales, ort, body, shape, axis):
    weight = RNG.standard_normal(shape).astype(np.float32)
    model = with_scales(net(f"y = {body}(x, k)", {"k": weight}), {"x": 0.03})

    new = with_float_weights(model)

    pairs = [n for n in new.graph.node if n.op_type in {"QuantizeLinear", "DequantizeLinear"} and "k" in n.name]
    assert [a.i for n in pairs for a in n.attribute if a.name == "axis"] == [axis, axis]
    assert np.array_equal(ort(new, X)[0], ort(model, X)[0])


def test_nodes_with_one_reason_share_a_line():
    lines = [*grouped("stays FP32", {"a": "tensor 't' reaches 5e4", "b": "tensor 'u' reaches 6e4", "c": "asked for"})]

    assert lines == ["a stays FP32: tensor 't' reaches 5e4; so do 1 more: b", "c stays FP32: asked for"]
    assert [*grouped("is", dict.fromkeys("abcdef", "so"))] == ["a is: so; so do 5 more: b, c, d, ..."]
    assert [*grouped("is", {})] == []


def test_asking_for_a_dialect_loads_no_graph_package():
    """A vehicle that only opens an engine has neither onnx nor graph surgery."""
    code = "import sys, engines.dialects; print([n for n in sys.modules if n in {'onnx', 'onnx_graphsurgeon'}])"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
