"""avcompress.quant.stages.equalize: what the network computes stays, the ranges become equal."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from avcompress.quant.stages.equalize import equalize, find_pairs
from avcompress.recipe import Equalize
from avcompress.spec import Artifact
from engines.norm_statistics import read_statistics, write_statistics_
from engines.onnx_graph import fold_batch_norms, initializers
from engines.onnx_load import load_onnx

EQUALIZE = Equalize(kind="equalize", iterations=100)
HEAD = '<ir_version: 8, opset_import: ["" : 17]> net (float[1,3,8,8] x) => (float[1,4,N,M] y)'
CHAIN = HEAD + "{ a = Conv <pads=[1,1,1,1]> (x, w1, b1)  r = %s  y = Conv (r, w2, b2) }"
SHAPES = {"w1": (6, 3, 3, 3), "b1": (6,), "w2": (4, 6, 1, 1), "b2": (4,), "slope": (6, 1, 1)}


def constant(model, name):
    return numpy_helper.to_array(initializers(model)[name])


def image(seed=0, size=(1, 3, 8, 8)):
    return np.random.default_rng(seed).standard_normal(size).astype(np.float32)


def uneven(channels, seed, decades=2.0):
    return 10.0 ** np.random.default_rng(seed).uniform(-decades, decades, channels)


def unevenly(parsed, text, shapes, seed=0):
    """A network whose first weight has channels of very different ranges."""
    model = parsed(text, shapes, seed)
    for tensor in model.graph.initializer:
        if tensor.name in {"w1", "b1"}:
            values = numpy_helper.to_array(tensor)
            scale = uneven(len(values), seed).reshape(-1, *[1] * (values.ndim - 1))
            tensor.CopyFrom(numpy_helper.from_array((values * scale).astype(np.float32), tensor.name))
    return model


def assert_same(run, model, after, seed=0, rtol=2e-5):
    x = image(seed, tuple(d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim))
    expected = run(model, x)
    assert np.abs(run(after, x) - expected).max() <= rtol * np.abs(expected).max()


# --- the paper's formula


def test_two_layers_share_their_ranges_by_hand(parsed):
    text = HEAD + "{ a = Conv (x, w1)  r = Relu (a)  y = Conv (r, w2) }"
    w1 = np.zeros((2, 3, 1, 1))
    w1[0, 0], w1[1, 2] = 8, -0.5
    w2 = np.zeros((4, 2, 1, 1))
    w2[1, 0], w2[3, 1] = 0.5, 32
    after = equalize(Artifact(parsed(text, {"w1": w1, "w2": w2})), EQUALIZE).model

    # s = sqrt(8 / 0.5) = 4 and sqrt(0.5 / 32) = 1/8: both layers have the ranges 2 and 4.
    assert np.abs(constant(after, "w1")).max((1, 2, 3)) == pytest.approx([2, 4])
    assert np.abs(constant(after, "w2")).max((0, 2, 3)) == pytest.approx([2, 4])


def test_a_triple_with_a_depthwise_layer_ends_at_the_cube_root(parsed):
    """Three layers in a row with a depthwise one between: each channel's range becomes the geometric mean of three."""
    text = HEAD + "{ a = Conv (x, w1)  r = Relu (a)  d = Conv <group=6> (r, wd)  s = Relu (d)  y = Conv (s, w2) }"
    model = unevenly(parsed, text, {"w1": (6, 3, 1, 1), "wd": (6, 1, 3, 3), "w2": (4, 6, 1, 1)})
    before = [np.abs(constant(model, n)).max(a) for n, a in (("w1", (1, 2, 3)), ("wd", (1, 2, 3)), ("w2", (0, 2, 3)))]

    after = equalize(Artifact(model), EQUALIZE).model

    expected = np.prod(before, axis=0) ** (1 / 3)
    for name, axes in (("w1", (1, 2, 3)), ("wd", (1, 2, 3)), ("w2", (0, 2, 3))):
        assert np.abs(constant(after, name)).max(axes) == pytest.approx(expected, rel=0.02)


# --- the function stays


@pytest.mark.parametrize(
    ("activation", "folded"),
    [
        ("Relu (a)", True),
        ("LeakyRelu <alpha=0.1> (a)", True),
        ("PRelu (a, slope)", True),
        ("Identity (a)", True),
        ("MaxPool <kernel_shape=[2,2], strides=[2,2]> (a)", True),
        ("Sigmoid (a)", False),
        ("HardSwish (a)", False),
        ("Tanh (a)", False),
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_the_function_stays_through_every_activation(parsed, run, activation, folded, seed):
    model = unevenly(parsed, CHAIN % activation, SHAPES, seed)

    artifact = equalize(Artifact(model), EQUALIZE)

    assert_same(run, model, artifact.model, seed)
    assert ("Mul" in {n.op_type for n in artifact.model.graph.node}) is not folded
    second = np.abs(constant(artifact.model, "w2")).max((0, 2, 3))
    before = np.abs(constant(model, "w2")).max((0, 2, 3))
    assert not np.allclose(second, before)


GATES = {
    "silu": "t = Sigmoid (a)  r = Mul (a, t)",
    "hard swish": "p = Add (a, three)  q = Clip (p, zero, six)  d = Div (q, six)  r = Mul (a, d)",
    "relu6": "r = Clip (a, zero, six)",
    "mish": "p = Softplus (a)  q = Tanh (p)  r = Mul (q, a)",
}


@pytest.mark.parametrize("gate", GATES)
def test_a_gate_of_several_operators_gets_one_multiplication(parsed, run, gate):
    text = HEAD + "{ a = Conv <pads=[1,1,1,1]> (x, w1, b1)  " + GATES[gate] + "  y = Conv (r, w2, b2) }"
    scalars = {"zero": np.array(0), "three": np.array(3), "six": np.array(6)}
    model = unevenly(parsed, text, {**SHAPES, **scalars})

    artifact = equalize(Artifact(model), EQUALIZE)

    assert_same(run, model, artifact.model)
    (reader,) = [n for n in artifact.model.graph.node if n.output[0] == "y"]
    (added,) = [n for n in artifact.model.graph.node if n.output[0] == reader.input[0]]
    assert (added.op_type, added.input[0]) == ("Mul", "r")
    assert "1 pairs of layers, 0 folded and 1 by a multiplication" in artifact.log[-1]


def test_without_explicit_multiplications_such_pairs_stay(parsed):
    model = unevenly(parsed, CHAIN % "Sigmoid (a)", SHAPES)

    artifact = equalize(Artifact(model), Equalize(kind="equalize", explicit=False))

    assert artifact.model.graph.node == model.graph.node
    assert artifact.log == ("equalize: no two layers that could share ranges",)


LAYERS = {
    "grouped": ("r = Relu (a)  y = Conv <group=2> (r, w2)", {"w2": (4, 3, 3, 3)}),
    "transposed": ("r = Relu (a)  y = ConvTranspose <strides=[2,2]> (r, w2, b2)", {"w2": (6, 4, 2, 2)}),
    "grouped transposed": ("r = Relu (a)  y = ConvTranspose <group=2> (r, w2, b2)", {"w2": (6, 2, 2, 2)}),
    "from transposed": (
        "t = ConvTranspose <group=3> (a, wt, bt)  r = Relu (t)  y = Conv (r, w2)",
        {"wt": (6, 3, 2, 2), "bt": (9,), "w2": (4, 9, 1, 1)},
    ),
    "batch norm behind a concat": (
        "c = Concat <axis=1> (a, x)  n = BatchNormalization (c, g, b, m, v)  r = Relu (n)  y = Conv (r, w2)",
        {"g": (9,), "b": (9,), "m": (9,), "v": np.arange(1, 10), "w2": (4, 9, 1, 1)},
    ),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_the_function_stays_for_every_kind_of_layer(parsed, run, kind):
    body, shapes = LAYERS[kind]
    model = unevenly(parsed, HEAD + "{ a = Conv <pads=[1,1,1,1]> (x, w1, b1)  " + body + "}", {**SHAPES, **shapes})

    artifact = equalize(Artifact(model), EQUALIZE)

    assert_same(run, model, artifact.model)
    assert artifact.log[-1].startswith("equalize: ")
    assert find_pairs(model)


def test_matrices_share_ranges_behind_a_global_pool(parsed, run):
    text = (
        '<ir_version: 8, opset_import: ["" : 17]> net (float[1,3,8,8] x) => (float[1,5] y) {'
        "a = Conv (x, w1, b1)  p = GlobalAveragePool (a)  f = Flatten (p)  h = Gemm <transB=1> (f, w2, b2)"
        "r = Relu (h)  m = Gemm <beta=0.5> (r, w3, b3)  y = MatMul (m, w4) }"
    )
    shapes = {"w1": (6, 3, 3, 3), "b1": (6,), "w2": (4, 6), "b2": (4,), "w3": (4, 7), "b3": (7,), "w4": (7, 5)}
    model = unevenly(parsed, text, shapes)

    artifact = equalize(Artifact(model), EQUALIZE)

    assert len(find_pairs(model)) == 3
    assert_same(run, model, artifact.model)


@settings(max_examples=25, deadline=None)
@given(
    widths=st.lists(st.integers(1, 7), min_size=2, max_size=4),
    kinds=st.lists(st.sampled_from(["Relu (%s)", "HardSwish (%s)", "LeakyRelu (%s)", "Sigmoid (%s)"]), min_size=5),
    seed=st.integers(0, 999),
)
def test_random_chains_stay_and_end_with_equal_ranges(parsed, run, widths, kinds, seed):
    body, shapes, last, channels = "", {}, "x", 3
    for i, width in enumerate([*widths, 4]):
        name = "y" if i == len(widths) else f"a{i}"
        body += f" {name} = Conv <pads=[1,1,1,1]> ({last}, w{i + 1}, b{i + 1})"
        shapes |= {f"w{i + 1}": (width, channels, 3, 3), f"b{i + 1}": (width,)}
        body += f" r{i} = {kinds[i] % name}" if name != "y" else ""
        last, channels = f"r{i}", width
    model = unevenly(parsed, HEAD + "{" + body + "}", shapes, seed)

    artifact = equalize(Artifact(model), EQUALIZE)

    assert_same(run, model, artifact.model, seed, rtol=1e-4)
    assert float(artifact.log[-1].split(" before and ")[1].split()[0]) < 1.05


# --- what is left alone


@pytest.mark.parametrize(
    "body",
    [
        "r = Relu (a)  s = Conv (r, w2, b2)  t = Conv (r, w2b)  y = Add (s, t)",  # two layers read it
        "r = Relu (a)  s = Conv (r, w2, b2)  g = ReduceMean <keepdims=0> (a)  y = Add (s, g)",  # read before it, too
        "r = Softmax <axis=1> (a)  y = Conv (r, w2, b2)",  # channels meet
        "g = GlobalAveragePool (a)  h = Sigmoid (g)  r = Mul (a, h)  y = Conv (r, w2, b2)",  # squeeze and excite
    ],
)
def test_tensors_that_something_else_reads_stay(parsed, body):
    text = HEAD + "{ a = Conv <pads=[1,1,1,1]> (x, w1, b1)  " + body + "}"
    model = parsed(text, {**SHAPES, "w2b": (4, 6, 1, 1)})

    assert find_pairs(model) == []


def test_a_network_output_between_two_layers_stays(parsed):
    text = (
        '<ir_version: 8, opset_import: ["" : 17]> net (float[1,3,8,8] x) => (float[1,6,6,6] r, float[1,4,6,6] y)'
        "{ a = Conv (x, w1)  r = Relu (a)  y = Conv (r, w2) }"
    )

    assert find_pairs(parsed(text, SHAPES)) == []


def test_layers_with_a_shared_weight_stay(parsed):
    text = HEAD + "{ a = Conv (x, w)  r = Relu (a)  b = Conv (r, w)  s = Relu (b)  y = Conv (s, w2) }"
    model = parsed(text, {"w": (3, 3, 1, 1), "w2": (4, 3, 1, 1)})

    assert find_pairs(model) == []


def test_dead_channels_are_not_touched(parsed, run):
    model = unevenly(parsed, CHAIN % "Relu (a)", SHAPES)
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor).copy()
        if tensor.name == "w1":
            values[2], values[3] = 0, 1e-38
        if tensor.name == "w2":
            values[:, 4] = 0
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))

    after = equalize(Artifact(model), EQUALIZE).model

    assert_same(run, model, after)
    for channel in (2, 3, 4):
        assert np.array_equal(constant(after, "w1")[channel], constant(model, "w1")[channel])
        assert constant(after, "b1")[channel] == constant(model, "b1")[channel]


def test_the_given_network_is_not_changed_and_equal_inputs_give_equal_bytes(parsed):
    model = unevenly(parsed, CHAIN % "Relu (a)", SHAPES)
    before = model.SerializeToString()

    first, second = (equalize(Artifact(model), EQUALIZE).model.SerializeToString() for _ in range(2))

    assert model.SerializeToString() == before
    assert first == second != before


# --- batch norms and absorbed biases

NORMED = HEAD + "{ c = Conv (x, w1)  n = BatchNormalization (c, g, b, m, v)  r = Relu (n)  y = Conv <%s> (r, w2, b2) }"


def normed(parsed, beta, attributes="pads=[0,0,0,0]"):
    constants = {"g": np.full(6, 0.5), "b": np.asarray(beta), "m": np.zeros(6), "v": np.full(6, 4.0)}
    return parsed(NORMED % attributes, {**SHAPES, "w1": (6, 3, 1, 1), **constants})


def test_statistics_of_a_folded_norm_are_scaled_along(parsed):
    model = normed(parsed, np.arange(6.0) - 3)
    after = equalize(Artifact(model), EQUALIZE).model
    folded = fold_batch_norms(model)
    scale = np.abs(constant(folded, "w1")).max((1, 2, 3)) / np.abs(constant(after, "w1")).max((1, 2, 3))

    statistics = read_statistics(next(n for n in after.graph.node if "w1" in n.input))

    assert statistics.std == pytest.approx(0.5 / scale)
    floor = np.maximum(np.arange(6) - 3 - 1.5, 0)
    assert statistics.mean == pytest.approx((np.arange(6) - 3 - floor) / scale, rel=1e-5)


def test_high_biases_move_into_the_next_layer(parsed, run):
    """Two channels lie far above zero: their floor, beta - 3 gamma, leaves the first layer's bias."""
    model = normed(parsed, [0, 0, 0, 0, 5, 10])
    artifact = equalize(Artifact(model), EQUALIZE)

    assert "2 high biases absorbed" in artifact.log[-1]
    # An image of the norm's own distribution: the convolution gives about N(0, 4).
    x = image(3) * np.float32(0.7)
    expected = run(model, x)
    assert np.abs(run(artifact.model, x) - expected).max() <= 2e-3 * np.abs(expected).max()
    assert np.abs(constant(artifact.model, "w1.folded_bias")[5]) < np.abs(
        constant(fold_batch_norms(model), "w1.folded_bias")[5]
    )


def test_the_layer_that_takes_a_bias_keeps_the_distribution_of_its_outputs(parsed):
    text = HEAD + (
        "{ c = Conv (x, w1)  n = BatchNormalization (c, g, b, m, v)  r = Relu (n)"
        "  d = Conv <pads=[0,0,0,0]> (r, w2, b2)  y = BatchNormalization (d, g2, e, m2, v2) }"
    )
    norms = {"g": np.full(6, 0.5), "b": np.full(6, 9.0), "m": np.zeros(6), "v": np.full(6, 4.0)}
    outputs = SHAPES["w2"][0]
    last = {"g2": np.ones(outputs), "e": np.arange(outputs), "m2": np.zeros(outputs), "v2": np.ones(outputs)}

    artifact = equalize(Artifact(parsed(text, {**SHAPES, "w1": (6, 3, 1, 1), **norms, **last})), EQUALIZE)

    assert "6 high biases absorbed" in artifact.log[-1]
    reader = [node for node in artifact.model.graph.node if node.op_type == "Conv"][1]
    assert read_statistics(reader).mean == pytest.approx(np.arange(outputs))


def test_biases_stay_where_padding_follows(parsed):
    artifact = equalize(Artifact(normed(parsed, [9.0] * 6, "pads=[1,1,1,1]")), EQUALIZE)

    assert "absorbed" not in artifact.log[-1]


def test_statistics_are_kept_and_replaced():
    node = onnx.helper.make_node("Conv", ["x", "w"], ["y"])
    assert read_statistics(node) is None

    write_statistics_(node, np.array([1.5, -2]), np.array([0.5, 3]))
    write_statistics_(node, np.array([1.25, -2]), np.array([0.5, 3]))

    assert read_statistics(node).mean.tolist() == [1.25, -2]
    assert read_statistics(node).std.tolist() == [0.5, 3]
    assert len(node.metadata_props) == 2


# --- whole networks


def test_every_architecture_of_the_zoo_computes_the_same(onnx_network, architecture, run):
    model = onnx_network(architecture)

    assert_same(run, model, equalize(Artifact(model), EQUALIZE).model, rtol=1e-3)


def test_yolox_nano_computes_the_same(data_root, run):
    model = load_onnx(data_root / "models" / "yolox_nano.onnx", (416, 416))
    x = np.random.default_rng(0).uniform(0, 255, (1, 3, 416, 416)).astype(np.float32)

    artifact = equalize(Artifact(model), EQUALIZE)

    assert "62 pairs of layers" in artifact.log[-1]
    expected = run(model, x)
    assert np.abs(run(artifact.model, x) - expected).max() <= 1e-3 * np.abs(expected).max()
