"""avcompress.quant.channels.shift: zero points spelled as a subtraction, where the layers allow it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from avcompress.quant.channels.shift import Shifted, shift
from avcompress.quant.placement.view import Site
from avcompress.quant.stages.ptq import quantize
from avcompress.recipe import KeepFloat, Ptq, RtxEngine
from avcompress.spec import Artifact, TensorRange
from engines.build import build_engine
from engines.in_memory import open_model
from engines.onnx_graph import initializers, with_outputs

HEAD = '<ir_version: 8, opset_import: ["" : 17]> net (float[1,4,6,6] x) => (float[N,M,H,W] y)'
SILU = "a = Conv (x, w0, b0)  s = Sigmoid (a)  r = Mul (a, s)  y = Conv (r, w1, b1)"
RELU_3X3 = "a = Conv (x, w0, b0)  r = Relu (a)  y = Conv <pads = [1,1,1,1]> (r, w3, b1)"
SHAPES = {"w0": (8, 4, 1, 1), "b0": (8,), "w1": (8, 8, 1, 1), "w3": (8, 8, 3, 3), "b1": (8,), "g": (8, 2, 1, 1)}
EVERYTHING = KeepFloat(head=False, depthwise=False, small_channels=0)
ON = Shifted(1.5, TensorRange((-2.0,), (2.0,)))


def ptq(**settings):
    return Ptq(kind="ptq", keep_float=EVERYTHING, **settings)


def batches(count=6, seed=0):
    return [{"x": np.random.default_rng((seed, i)).standard_normal((1, 4, 6, 6), np.float32) * 3} for i in range(count)]


def quantized(model, activations):
    return quantize(Artifact(model), ptq(activations=activations), batches())


def noise(model, artifact, tensor="y"):
    def total(network):
        return [open_model(with_outputs(network, [tensor]), False).run([tensor], b)[0] for b in batches(4, seed=1)]

    return sum(np.sum((a - b) ** 2) for a, b in zip(total(model), total(artifact.model), strict=True))


def subs(model):
    return [node for node in model.graph.node if node.op_type == "Sub"]


def test_by_hand_the_bias_takes_what_the_subtraction_took(parsed):
    """W = [[1, 2], [3, -1]], b = [10, 20], m = 1.5: b + W m = [14.5, 23]."""
    model = parsed(
        '<ir_version: 8, opset_import: ["" : 17]> net (float[1,2,1,1] x) => (float[1,2,1,1] y) { y = Conv (x, w, b) }',
        {"w": (2, 2, 1, 1), "b": (2,)},
    )
    for tensor, values in zip(model.graph.initializer, ([[1, 2], [3, -1]], [10, 20]), strict=True):
        array = np.array(values, np.float32).reshape(tuple(tensor.dims))
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    site = Site("x", ((model.graph.node[0].name, 0),))

    after, names = shift(model, [site], {"x": ON})

    (sub,) = subs(after)
    assert names == {"x": sub.output[0]}
    conv = next(node for node in after.graph.node if node.op_type == "Conv")
    assert numpy_helper.to_array(initializers(after)[conv.input[2]]).tolist() == [14.5, 23]
    assert numpy_helper.to_array(initializers(after)[sub.input[1]]) == 1.5


@settings(max_examples=20, deadline=None)
@given(st.floats(-8, 8, width=32), st.integers(0, 99), st.sampled_from(["1x1", "grouped", "no bias"]))
def test_what_the_network_computes_stays(parsed, run, middle, seed, reader):
    last = {"1x1": "Conv (r, w1, b1)", "grouped": "Conv <group = 4> (r, g, b1)", "no bias": "Conv (r, w1)"}[reader]
    model = parsed(HEAD + "{ r = Conv (x, w0, b0)  y = " + last + "}", SHAPES, seed)
    site = Site("r", ((model.graph.node[-1].name, 0),))

    after, _ = shift(model, [site], {"r": ON._replace(middle=middle)})

    for batch in batches(2):
        expected = run(model, batch["x"])
        assert np.abs(run(after, batch["x"]) - expected).max() <= 1e-5 * (np.abs(expected).max() + 8 * abs(middle))


def test_a_shift_is_as_good_as_a_zero_point_and_twice_as_fine_as_none(parsed):
    model = parsed(HEAD + "{" + SILU + "}", SHAPES)

    symmetric, shifted, asymmetric = (quantized(model, kind) for kind in ("symmetric", "shifted", "asymmetric"))

    assert all(set(params.zero_point) == {0} for params in shifted.qparams.values())
    assert shifted.qparams["r_shifted"].scale[0] == pytest.approx(asymmetric.qparams["r"].scale[0], rel=0.01)
    assert noise(model, shifted) == pytest.approx(noise(model, asymmetric), rel=0.25)
    assert noise(model, shifted) < 0.6 * noise(model, symmetric)
    assert "1 of 2 activations are shifted" in shifted.log[1]


@pytest.mark.parametrize("weights", ["per_channel", "per_tensor"])
@pytest.mark.parametrize("last", ["Conv (r, w1, b1)", "Conv <group = 4> (r, g, b1)", "Conv (r, w1)"])
def test_the_bias_of_a_quantized_layer_takes_the_middle_times_its_rounded_weights(parsed, last, weights):
    model = parsed(HEAD + "{ a = Conv (x, w0, b0)  r = Relu (a)  y = " + last + "}", SHAPES)

    artifact = quantize(Artifact(model), ptq(activations="shifted", weights=weights), batches())

    nodes = [next(n for n in m.graph.node if "y" in n.output) for m in (artifact.reference, artifact.model)]
    biases = [
        numpy_helper.to_array(initializers(m)[node.input[2]])
        for m, node in zip((artifact.reference, artifact.model), nodes, strict=True)
    ]
    (sub,) = subs(artifact.reference)
    middle = float(numpy_helper.to_array(initializers(artifact.reference)[sub.input[1]]))
    weight = numpy_helper.to_array(initializers(artifact.reference)[nodes[0].input[1]]).astype(np.float64)
    scale = np.array(artifact.qparams[nodes[0].input[1]].scale).reshape(-1, 1, 1, 1)
    rounded = np.rint(weight / scale) * scale
    assert biases[1] - biases[0] == pytest.approx(middle * (rounded - weight).sum((1, 2, 3)), abs=1e-5)
    assert biases[1] != pytest.approx(biases[0], abs=1e-4)


def test_the_float_network_beside_it_is_shifted_too_and_of_the_same_function(parsed, run):
    model = parsed(HEAD + "{" + SILU + "}", SHAPES)

    artifact = quantized(model, "shifted")

    assert len(subs(artifact.reference)) == 1
    batch = batches(1)[0]["x"]
    assert run(artifact.reference, batch) == pytest.approx(run(model, batch), abs=1e-4)


@pytest.mark.parametrize(
    "body",
    [
        RELU_3X3,  # padded zeros are values of r
        "a = Conv (x, w0, b0)  r = Relu (a)  y = ConvTranspose (r, w1, b1)",
        "a = Conv (x, w0, b0)  r = Relu (a)  c = Conv (r, w1, b1)  d = Conv <pads = [1,1,1,1]> (r, w3)  y = Add (c, d)",
        "r = Conv (x, w0, b0)  y = Conv (r, w1, b1)",  # even about zero already
    ],
)
def test_where_nothing_is_gained_or_padding_forbids_it_activations_stay_symmetric(parsed, body):
    model = parsed(HEAD + "{" + body + "}", SHAPES)

    symmetric, shifted = (quantized(model, kind) for kind in ("symmetric", "shifted"))

    assert not subs(shifted.model)
    assert shifted.model.SerializeToString() == symmetric.model.SerializeToString()


def test_constant_and_zero_activations_do_not_stop_it(parsed):
    model = parsed(HEAD + "{" + SILU + "}", SHAPES)
    zeros = [{"x": np.zeros((1, 4, 6, 6), np.float32)}]

    artifact = quantize(Artifact(model), ptq(activations="shifted"), zeros)

    assert np.isfinite(open_model(artifact.model, False).run(None, zeros[0])[0]).all()


@pytest.mark.rtx
def test_tensorrt_takes_a_shifted_network_and_computes_it_in_int8(parsed, tmp_path):
    body = "a = Conv (x, w0, b0)  s = Sigmoid (a)  r = Mul (a, s)  y = Conv (r, w1, b1)"
    head = '<ir_version: 8, opset_import: ["" : 17]> net (float[1,32,16,16] x) => (float[1,32,16,16] y)'
    model = parsed(head + "{" + body + "}", {"w0": (32, 32, 1, 1), "b0": (32,), "w1": (32, 32, 1, 1), "b1": (32,)})
    images = [{"x": np.random.default_rng(i).standard_normal((1, 32, 16, 16), np.float32)} for i in range(2)]
    artifact = quantize(Artifact(model), ptq(activations="shifted"), images)
    (tmp_path / "net.onnx").write_bytes(artifact.model.SerializeToString())

    built = build_engine(tmp_path / "net.onnx", tmp_path / "engine", RtxEngine(backend="trt_rtx"))

    assert len(subs(artifact.model)) == 1
    assert set(built.precisions.values()) == {"int8"}
