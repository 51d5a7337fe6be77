import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from avcompress.quant.plan import prepare
from avcompress.search.groups import OUTSIDE, Passage, layout_of


def network(nodes: list[onnx.NodeProto], outputs: dict[str, list[int]], weights: dict[str, tuple[int, ...]]):
    rng = np.random.default_rng(0)
    constants = [numpy_helper.from_array(rng.normal(size=s).astype(np.float32), n) for n, s in weights.items()]
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 4, 4])
    results = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in outputs.items()]
    graph = helper.make_graph(nodes, "net", [image], results, constants)
    return prepare(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


def conv(name: str, data: str, weight: str) -> onnx.NodeProto:
    return helper.make_node("Conv", [data, weight], [f"{name}.out"], name)


def test_layers_that_read_one_tensor_are_a_group_and_others_are_alone():
    nodes = [
        conv("a", "x", "wa"),
        conv("b", "a.out", "wb"),
        conv("c", "a.out", "wc"),
        helper.make_node("Add", ["b.out", "c.out"], ["y"], "add"),
    ]

    layout = layout_of(
        network(nodes, {"y": [1, 3, 4, 4]}, {"wa": (2, 2, 1, 1), "wb": (3, 2, 1, 1), "wc": (3, 2, 1, 1)})
    )

    assert [group.layers for group in layout.groups] == [("a",), ("b", "c")]
    assert [group.macs for group in layout.groups] == [2 * 2 * 16, 2 * 3 * 2 * 16]


def test_layers_that_multiply_by_one_constant_are_a_group():
    nodes = [conv("a", "x", "w"), helper.make_node("Relu", ["a.out"], ["r"], "relu"), conv("b", "r", "w")]

    (group,) = layout_of(network(nodes, {"b.out": [1, 2, 4, 4]}, {"w": (2, 2, 1, 1)})).groups

    assert group.layers == ("a", "b")


def test_a_tensor_that_two_layers_of_a_group_read_passes_once_and_an_activation_keeps_its_size():
    nodes = [
        conv("a", "x", "wa"),
        helper.make_node("Sigmoid", ["a.out"], ["gate"], "sigmoid"),
        helper.make_node("Mul", ["a.out", "gate"], ["silu"], "mul"),
        conv("b", "silu", "wb"),
        conv("c", "silu", "wb2"),
        helper.make_node("Concat", ["b.out", "c.out"], ["y"], "concat", axis=1),
    ]

    layout = layout_of(
        network(nodes, {"y": [1, 4, 4, 4]}, {"wa": (6, 2, 1, 1), "wb": (1, 6, 1, 1), "wb2": (3, 6, 1, 1)})
    )

    assert layout.passages == (
        Passage(OUTSIDE, "a", 32.0),
        Passage("a", "b", 96.0),
        Passage("b", OUTSIDE, 64.0),
    )


def test_the_parts_of_a_concatenation_pass_by_themselves_and_pooling_leaves_fewer_values():
    nodes = [
        conv("a", "x", "wa"),
        helper.make_node("MaxPool", ["a.out"], ["pooled"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        conv("b", "pooled", "wb"),
        helper.make_node("Concat", ["pooled", "b.out"], ["both"], "concat", axis=1),
        conv("c", "both", "wc"),
    ]

    weights = {"wa": (2, 2, 1, 1), "wb": (3, 2, 1, 1), "wc": (1, 5, 1, 1)}
    layout = layout_of(network(nodes, {"c.out": [1, 1, 2, 2]}, weights))

    assert set(layout.passages) == {
        Passage(OUTSIDE, "a", 32.0),
        Passage("a", "b", 8.0),
        Passage("a", "c", 8.0),
        Passage("b", "c", 12.0),
        Passage("c", OUTSIDE, 4.0),
    }


def test_the_operands_of_an_addition_share_the_conversion_of_their_sum():
    nodes = [
        conv("a", "x", "wa"),
        conv("b", "a.out", "wb"),
        helper.make_node("Add", ["a.out", "b.out"], ["sum"], "add"),
        conv("c", "sum", "wc"),
    ]

    weights = {"wa": (2, 2, 1, 1), "wb": (2, 2, 1, 1), "wc": (2, 2, 1, 1)}
    layout = layout_of(network(nodes, {"c.out": [1, 2, 4, 4]}, weights))

    into = {passage.source: passage.values for passage in layout.passages if passage.target == "c"}
    assert into == {"a": 16.0, "b": 16.0}


def test_every_layer_of_every_architecture_is_in_one_group_and_what_enters_a_group_is_no_more_than_it_reads(
    architecture, onnx_network
):
    model = prepare(onnx_network(architecture))

    layout = layout_of(model)

    layers = [layer for group in layout.groups for layer in group.layers]
    weighted = [n.name for n in model.graph.node if n.op_type in {"Conv", "ConvTranspose", "Gemm", "MatMul"}]
    assert sorted(layers) == sorted(weighted)
    assert all(passage.values > 0 for passage in layout.passages)
    sources = {passage.source for passage in layout.passages}
    assert OUTSIDE in sources
    assert OUTSIDE in {passage.target for passage in layout.passages}
