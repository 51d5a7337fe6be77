"""avcompress.quant.learning.blocks: how networks are cut, and that a part computes what it did in the whole."""

import numpy as np
import pytest
from onnx import numpy_helper, parser

from avcompress.quant.int8_layers import int8_layers
from avcompress.quant.learning.blocks import cut, extract, extract_between, starts
from engines.in_memory import open_model
from engines.onnx_graph import infer_shapes, name_nodes, with_outputs
from engines.onnx_load import load_onnx


def network(body, weights, channels=4, size=8):
    """A network of 3x3 or 1x1 convolutions; `weights` are names and shapes."""
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
    net (float[1,{channels},{size},{size}] x) => (float[1,c,h,w] y) {{ {body} }}"""
    model = parser.parse_model(text)
    random = np.random.default_rng(0)
    for name, shape in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(random.standard_normal(shape).astype(np.float32), name))
    return infer_shapes(name_nodes(model))


def convs(*names, channels=4):
    return dict.fromkeys(names, (channels, channels, 1, 1))


def shown(model, layers=None):
    """Each block as source, output and layers."""
    layers = layers or [node.name for node in model.graph.node if node.op_type == "Conv"]
    return [(block.source, block.output, block.layers) for block in cut(model, layers)]


def test_a_residual_block_is_one_and_the_layer_after_it_is_taken_along():
    model = network(
        "a = Conv (x, wa) r = Relu (a) b = Conv (r, wb) s = Add (b, x) t = Relu (s) y = Conv (t, wy)",
        convs("wa", "wb", "wy"),
    )

    assert shown(model) == [("x", "y", ("Conv_0", "Conv_2", "Conv_5"))]


def test_long_chains_are_cut_between_activation_and_layer():
    body = " ".join(f"c{i} = Conv ({'x' if i == 0 else f'r{i - 1}'}, w{i}) r{i} = Relu (c{i})" for i in range(7))
    model = network(body.replace("r6 =", "y ="), convs(*(f"w{i}" for i in range(7))))

    assert shown(model) == [
        ("x", "r2", ("Conv_0", "Conv_2", "Conv_4")),
        ("r2", "y", ("Conv_6", "Conv_8", "Conv_10", "Conv_12")),
    ]


def test_a_silu_stays_with_its_layer():
    """Its two operators read the layer's output: that tensor is one, yet no place to cut."""
    body = "a = Conv (x, wa) s = Sigmoid (a) m = Mul (a, s) " * 1
    chain = body + " ".join(
        f"a{i} = Conv ({'m' if i == 0 else f'm{i - 1}'}, w{i}) s{i} = Sigmoid (a{i}) m{i} = Mul (a{i}, s{i})"
        for i in range(4)
    )
    model = network(chain.replace("m3 =", "y ="), convs("wa", *(f"w{i}" for i in range(4))))

    assert [(source, output) for source, output, _ in shown(model)] == [("x", "m"), ("m", "y")]


def test_branches_that_are_joined_later_are_one_block_however_many_layers_they_have():
    body = "p0 = Conv (x, wa) q0 = Conv (x, wb) "
    body += " ".join(f"p{i + 1} = Conv (p{i}, w{i})" for i in range(5))
    model = network(
        body + " c = Concat <axis = 1> (p5, q0) y = Conv (c, wy)",
        {**convs("wa", "wb", *(f"w{i}" for i in range(5))), "wy": (4, 8, 1, 1)},
    )

    blocks = shown(model)

    assert [(source, output, len(layers)) for source, output, layers in blocks] == [("x", "c", 7), ("c", "y", 1)]


def test_a_tensor_that_is_also_read_elsewhere_ends_a_block_and_is_never_inside_one():
    """b is read by d and by the concatenation: the block that holds both begins with it or before."""
    body = "a = Conv (x, wa) b = Conv (a, wb) d = Conv (b, wd) e = Conv (d, we) c = Concat <axis = 1> (b, e)"
    model = network(body + " y = Conv (c, wy)", {**convs("wa", "wb", "wd", "we"), "wy": (4, 8, 1, 1)})

    assert shown(model) == [("x", "a", ("Conv_0",)), ("a", "y", ("Conv_1", "Conv_2", "Conv_3", "Conv_5"))]
    assert shown(model, ["Conv_2"]) == [("b", "y", ("Conv_2",))]
    assert shown(model, ["Conv_1"]) == [("a", "y", ("Conv_1",))]


def test_no_layer_is_in_two_blocks_and_blocks_read_what_is_there_by_then(small_artifact):
    names = [layer.name for layer in int8_layers(small_artifact)]

    blocks = cut(small_artifact.reference, names)

    assert sorted(layer for block in blocks for layer in block.layers) == sorted(names)


def test_a_part_of_a_quantized_network_computes_what_it_did(small_artifact, small_batches):
    part = extract(small_artifact.model, "r", "s")

    whole = open_model(with_outputs(small_artifact.model, ["r", "s"]))
    given, expected = whole.run(["r", "s"], small_batches[0])
    assert [value.name for value in part.graph.input] == ["r"]
    assert len(part.graph.node) < len(small_artifact.model.graph.node)
    assert np.array_equal(open_model(part).run(None, {"r": given})[0], expected)


def test_a_part_begins_at_the_known_tensors_that_it_reads_and_at_no_others(small_artifact, small_batches):
    """s = b + r: known are r, and a before it, which is not read."""
    assert starts(small_artifact.model, ["x", "a", "r"], ["s"]) == ["r"]
    assert starts(small_artifact.model, ["x", "b"], ["s"]) == ["x", "b"]

    part = extract_between(small_artifact.model, ["b", "r"], ["s", "y"])

    whole = open_model(with_outputs(small_artifact.model, ["b", "r", "s", "y"]))
    b, r, *expected = whole.run(["b", "r", "s", "y"], small_batches[0])
    assert [value.name for value in part.graph.input] == ["b", "r"]
    for value, right in zip(open_model(part).run(None, {"b": b, "r": r}), expected, strict=True):
        assert np.array_equal(value, right)


@pytest.mark.slow
def test_every_layer_of_yolox_nano_is_in_a_block(data_root):
    model = load_onnx(data_root / "models" / "yolox_nano.onnx", (416, 416))
    names = [node.name for node in model.graph.node if node.op_type == "Conv"]

    blocks = cut(model, names)

    assert sorted(layer for block in blocks for layer in block.layers) == sorted(names)
    assert max(len(block.layers) for block in blocks) <= 24
    assert len(blocks) < 50
