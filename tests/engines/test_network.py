import onnx
import pytest
from onnx import helper

from avcompress.spec import EngineBuildError
from engines.network import float_nodes, network_inputs, network_outputs, read_network, weighted_nodes


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "got 0 nodes and 0 outputs"),
        (b"this is no network", "expected an ONNX file, got something else"),
        (None, "got No such file"),
    ],
    ids=["empty", "text", "missing"],
)
def test_what_is_no_network_is_refused_in_one_line(tmp_path, content, message):
    path = tmp_path / "net.onnx"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(EngineBuildError, match=message) as caught:
        read_network(path)

    assert caught.value.stage == "parse"
    assert "net.onnx" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_truncated_file_is_refused(tmp_path, two_convs):
    path = tmp_path / "net.onnx"
    path.write_bytes(two_convs.SerializeToString()[:3000])

    with pytest.raises(EngineBuildError, match="truncated"):
        read_network(path)


def test_an_input_of_unknown_size_is_refused(tmp_path, two_convs):
    model = onnx.ModelProto.FromString(two_convs.SerializeToString())
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.save(model, tmp_path / "net.onnx")

    with pytest.raises(EngineBuildError, match=r"input 'x': expected a static shape, got \(-1, 16, 16, 16\)"):
        read_network(tmp_path / "net.onnx")


def test_inputs_and_outputs_come_with_their_shapes(two_convs):
    assert network_inputs(two_convs) == {"x": (1, 16, 16, 16)}
    assert network_outputs(two_convs) == {"y": (1, 32, 16, 16)}


def test_weighted_nodes_are_the_same_with_and_without_qdq(every_kind, quantize):
    names = weighted_nodes(every_kind)

    assert weighted_nodes(quantize(every_kind, names)) == names
    assert names[:2] == ("first", "pointwise")
    assert "mixed.MatMul" in names  # a product of two activations


@pytest.mark.parametrize(("name", "message"), [("", "got none for the Conv"), ("c2", "got 'c2' 2 times")])
def test_a_weighted_node_without_a_name_of_its_own_is_refused(network, name, message):
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], name=name),
        helper.make_node("Conv", ["a", "w"], ["y"], name="c2"),
    ]
    model = network(nodes, {"x": (1, 1, 2, 2)}, {"y": (1, 1, 2, 2)}, {"w": [[[[1.0]]]]})

    with pytest.raises(EngineBuildError, match=message):
        weighted_nodes(model)


def test_a_product_of_two_activations_counts_as_the_plan_counts_it(network):
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], name="turn", perm=[1, 0]),
        helper.make_node("MatMul", ["x", "t"], ["y"], name="attention"),
    ]

    assert weighted_nodes(network(nodes, {"x": (2, 4)}, {"y": (2, 2)}, {})) == ("attention",)


def test_a_product_is_float_for_any_engine_where_an_operand_is(quantized_products):
    """Names that a fusion lost can be told then; `late` reads what was quantized before a Relu, and may be INT8."""
    assert float_nodes(quantized_products) == {"plain": "fp32", "weights_only": "fp32", "scores": "fp32"}


@pytest.fixture
def quantized_products():
    text = """
    <ir_version: 10, opset_import: ["" : 17]>
    net (float[4,4] x) => (float[4,4] y, float[4,4] z)
    <float s = {0.1}, int8 o = {0}, int8[4,4] k = {1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1},
     float[4,4] w = {1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1}> {
        q = QuantizeLinear (x, s, o)
        d = DequantizeLinear (q, s, o)
        e = DequantizeLinear (k, s, o)
        [int8] a = MatMul (d, e)
        r = Relu (d)
        [late] b = MatMul (r, e)
        [plain] c = MatMul (a, w)
        [weights_only] f = MatMul (b, e)
        [scores] y = MatMul (c, f)
        z = Relu (d)
    }
    """
    return onnx.shape_inference.infer_shapes(onnx.parser.parse_model(text))
