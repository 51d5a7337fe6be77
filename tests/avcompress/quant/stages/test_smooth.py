"""avcompress.quant.stages.smooth: what the network computes stays, the channels of smoothed tensors get one range."""

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from avcompress.quant.stages.ptq import quantize
from avcompress.quant.stages.smooth import channel_clips, find_sites, scale_of, smooth
from avcompress.recipe import KeepFloat, Ptq, RtxEngine, Smooth
from avcompress.spec import Artifact, DataError, RecipeError
from engines.in_memory import open_model
from engines.onnx_graph import initializers, with_outputs
from engines.onnx_load import load_onnx
from engines.tensorrt.build import build_rtx

SMOOTH = Smooth(kind="smooth")
HEAD = '<ir_version: 8, opset_import: ["" : 17]> net (float[1,6,8,8] x) => (float[1,4,N,M] y)'
SILU = (
    "a = Conv (x, w1, b1)  s = Sigmoid (a)  r = Mul (a, s)"
    "d = Conv <group=6, pads=[1,1,1,1]> (r, wd)  y = Conv (d, w2, b2)"
)
SHAPES = {"w1": (6, 6, 1, 1), "b1": (6,), "wd": (6, 1, 3, 3), "wd2": (6, 1, 3, 3), "w2": (4, 6, 1, 1), "b2": (4,)}
DECADES = 10.0 ** np.array([-0.5, 0, 0.5, 1, 2, 1.5])


def uneven(parsed, body, shapes=None, seed=0):
    """A network whose first layer gives channels of very different ranges."""
    model = parsed(HEAD + "{" + body + "}", {**SHAPES, **(shapes or {})}, seed)
    for tensor in model.graph.initializer:
        if tensor.name in {"w1", "b1"}:
            values = numpy_helper.to_array(tensor)
            scale = DECADES.reshape(-1, *[1] * (values.ndim - 1))
            tensor.CopyFrom(numpy_helper.from_array((values * scale).astype(np.float32), tensor.name))
    return model


def batches(count=3, size=(1, 6, 8, 8)):
    return [{"x": np.random.default_rng(i).standard_normal(size).astype(np.float32)} for i in range(count)]


def assert_same(run, model, after, rtol=2e-5):
    for batch in batches(2):
        expected = run(model, batch["x"])
        assert np.abs(run(after, batch["x"]) - expected).max() <= rtol * np.abs(expected).max()


def noise(model, quantized, tensor, channel):
    """The noise of one channel of a tensor against its power, over some images."""
    total = power = 0.0
    for batch in batches(4):
        a, b = (open_model(with_outputs(m, [tensor])).run([tensor], batch)[0][:, channel] for m in (model, quantized))
        total, power = total + np.sum((a - b) ** 2), power + np.sum(a**2)
    return total / power


def mul_nodes(model):
    return [n for n in model.graph.node if n.op_type == "Mul" and n.input[1] in initializers(model)]


# --- scales


def test_depthwise_scales_are_the_ranges_against_the_largest():
    assert scale_of(np.array([1.0, 4, 2]), None, 1.0).tolist() == [0.25, 1, 0.5]
    assert scale_of(np.array([1.0, 4, 2]), None, 0.5) == pytest.approx([0.5, 1, 0.5**0.5])
    assert scale_of(np.array([1.0, 4, 2]), None, 0.0).tolist() == [1, 1, 1]


def test_scales_of_a_full_layer_are_smoothquants():
    """Equation 4 of the paper by hand: sqrt(|X|) / sqrt(|W|), against the largest."""
    x, w = np.array([16.0, 1, 4]), np.array([1.0, 4, 4])

    assert scale_of(x, w, 0.5) == pytest.approx(np.array([4, 0.5, 1]) / 4)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=9), st.floats(0, 1), st.integers(0, 9))
def test_scales_are_above_zero_and_at_most_one(clips, strength, seed):
    weights = np.random.default_rng(seed).uniform(0, 1, len(clips))

    for chosen in (weights, None):
        scale = scale_of(np.array(clips), chosen, strength)
        assert ((scale > 0) & (scale <= 1)).all()


def test_dead_channels_are_left_as_they_are():
    assert scale_of(np.array([0, 1.0, 4, 1e-30]), None, 1.0).tolist() == [1, 0.25, 1, 1]
    assert scale_of(np.zeros(2), None, 1.0).tolist() == [1, 1]


# --- the graph


def test_a_depthwise_input_gets_one_multiplication_and_the_function_stays(parsed, run):
    model = uneven(parsed, SILU)

    artifact = smooth(Artifact(model), SMOOTH, batches())

    assert_same(run, model, artifact.model)
    (mul,) = mul_nodes(artifact.model)
    depthwise = next(n for n in artifact.model.graph.node if n.output[0] == "d")
    assert (mul.input[0], depthwise.input[0]) == ("r", mul.output[0])
    assert artifact.log[-1].startswith("smooth: the inputs of 1 layers, by 1 multiplications and 0 scales folded")


def test_afterwards_all_channels_have_one_range(parsed):
    model = uneven(parsed, SILU)
    artifact = smooth(Artifact(model), SMOOTH, batches())

    before = channel_clips(model, find_sites(model, "depthwise"), batches())["r"]
    after = channel_clips(artifact.model, find_sites(artifact.model, "depthwise"), batches())["r_scaled"]

    assert before.max() / before.min() > 100
    assert after.max() / after.min() < 1.1
    assert after.max() == pytest.approx(before.max(), rel=0.1)


def test_int8_gains_what_small_channels_had_lost(parsed):
    model = uneven(parsed, SILU, seed=4)
    ptq = Ptq(kind="ptq", keep_float=KeepFloat(head=False, depthwise=False, small_channels=0))
    smoothed = smooth(Artifact(model), SMOOTH, batches())

    plain, better = (quantize(a, ptq, batches()) for a in (Artifact(model), smoothed))

    assert all(layer.precision == "int8" for layer in better.layers)
    assert better.qparams["r_scaled"].axis is None
    # The channel of the smallest range is what one scale for all rounds to nothing.
    assert noise(model, better.model, "d", 0) < noise(model, plain.model, "d", 0) / 100


def test_through_relu_the_scale_is_folded(parsed, run):
    body = "a = Conv (x, w1, b1)  r = Relu (a)  d = Conv <group=6> (r, wd)  y = Conv (d, w2, b2)"
    model = uneven(parsed, body)

    artifact = smooth(Artifact(model), SMOOTH, batches())

    assert_same(run, model, artifact.model)
    assert not mul_nodes(artifact.model)
    assert "by 0 multiplications and 1 scales folded" in artifact.log[-1]


@pytest.mark.parametrize(
    ("body", "muls"),
    [
        # a skip around the depthwise layer reads the float tensor
        (
            "a = Conv (x, w1, b1) r = Relu (a) d = Conv <group=6, pads=[1,1,1,1]> (r, wd)"
            "z = Add (d, r) y = Conv (z, w2)",
            1,
        ),
        # two depthwise layers share the multiplication
        (
            "a = Conv (x, w1, b1) r = HardSwish (a) d = Conv <group=6> (r, wd) e = Conv <group=6> (r, wd2)"
            "z = Add (d, e) y = Conv (z, w2)",
            1,
        ),
        # ... or have it folded, when nobody else reads the tensor
        (
            "a = Conv (x, w1, b1) r = Relu (a) d = Conv <group=6> (r, wd) e = Conv <group=6> (r, wd2)"
            "z = Add (d, e) y = Conv (z, w2)",
            0,
        ),
        # two of one weight: each gets its own
        (
            "a = Conv (x, w1, b1) r = Relu (a) d = Conv <group=6> (r, wd) e = Conv <group=6> (x, wd)"
            "z = Add (d, e) y = Conv (z, w2)",
            0,
        ),
        # the network's input itself
        ("d = Conv <group=6> (x, wd) y = Conv (d, w2)", 1),
    ],
)
def test_readers_and_sources_of_every_kind_keep_the_function(parsed, run, body, muls):
    model = uneven(parsed, body)

    artifact = smooth(Artifact(model), SMOOTH, batches())

    assert_same(run, model, artifact.model)
    assert len(mul_nodes(artifact.model)) == muls


def test_named_layers_are_smoothed_against_their_weights(parsed, run):
    model = uneven(parsed, SILU)

    artifact = smooth(Artifact(model), Smooth(kind="smooth", layers=("w*",), strength=0.5), batches())

    assert_same(run, model, artifact.model)
    assert artifact.log[-1].startswith("smooth: the inputs of 3 layers, by 2 multiplications and 1 scales folded")
    weights = numpy_helper.to_array(initializers(artifact.model)["w2"])
    assert weights.shape == (4, 6, 1, 1)


def test_matrix_products_have_their_channels_last(parsed, run):
    text = (
        '<ir_version: 8, opset_import: ["" : 17]> net (float[1,6,8,8] x) => (float[1,8,8,3] y)'
        "{ t = Transpose <perm=[0,2,3,1]> (x)  s = Mul (t, big)  y = MatMul (s, w) }"
    )
    model = parsed(text, {"big": DECADES, "w": (6, 3)})

    artifact = smooth(Artifact(model), Smooth(kind="smooth", layers=("*",), strength=0.5), batches())

    assert_same(run, model, artifact.model)
    assert len(mul_nodes(artifact.model)) == 2


def test_a_network_without_depthwise_layers_stays(parsed):
    model = uneven(parsed, "a = Conv (x, w1, b1) r = Relu (a) y = Conv (r, w2)")

    artifact = smooth(Artifact(model), SMOOTH, [])

    assert artifact.model.graph.node == model.graph.node
    assert artifact.log == ("smooth: no depthwise layers, nothing to do",)


def test_the_given_network_is_not_changed_and_the_order_of_images_does_not_matter(parsed):
    model = uneven(parsed, SILU)
    before = model.SerializeToString()

    first = smooth(Artifact(model), SMOOTH, batches(4)).model
    second = smooth(Artifact(model), SMOOTH, batches(4)[::-1]).model

    assert model.SerializeToString() == before
    assert first.SerializeToString() == second.SerializeToString()


# --- refusals


def test_a_pattern_that_matches_nothing_is_refused(parsed):
    with pytest.raises(RecipeError, match=r"smooth\.layers: .* got 'wx'; the nearest names are"):
        smooth(Artifact(uneven(parsed, SILU)), Smooth(kind="smooth", layers=("wx",)), batches())


def test_images_are_needed_and_must_be_finite(parsed):
    with pytest.raises(DataError, match="expected at least one image"):
        smooth(Artifact(uneven(parsed, SILU)), SMOOTH, [])
    with pytest.raises(DataError, match=r"'r', calibration image 1: expected finite values"):
        smooth(Artifact(uneven(parsed, SILU)), SMOOTH, [{"x": np.full((1, 6, 8, 8), np.nan, np.float32)}])


# --- whole networks


def test_every_architecture_of_the_zoo_computes_the_same(onnx_network, architecture, run):
    model = onnx_network(architecture)
    name, image = model.graph.input[0].name, np.random.default_rng(0).random((1, 3, 64, 64), np.float32)

    artifact = smooth(Artifact(model), Smooth(kind="smooth", layers=("*",), strength=0.5), [{name: image}])

    expected = run(model, image)
    assert np.abs(run(artifact.model, image) - expected).max() <= 1e-3 * np.abs(expected).max()


def test_yolox_nano_gets_27_multiplications_for_30_layers(data_root, run):
    model = load_onnx(data_root / "models" / "yolox_nano.onnx", (416, 416))
    image = np.random.default_rng(0).uniform(0, 255, (1, 3, 416, 416)).astype(np.float32)

    artifact = smooth(Artifact(model), SMOOTH, [{"images": image}])

    assert "the inputs of 30 layers, by 27 multiplications" in artifact.log[-1]
    expected = run(model, image)
    assert np.abs(run(artifact.model, image) - expected).max() <= 1e-3 * np.abs(expected).max()
    onnx.checker.check_model(artifact.model)


@pytest.mark.rtx
def test_tensorrt_takes_the_multiplications_and_runs_the_depthwise_layer_in_int8(parsed, tmp_path):
    pytest.importorskip("tensorrt_rtx")
    model = uneven(parsed, SILU)
    kept = KeepFloat(head=False, depthwise=False, small_channels=0)
    artifact = quantize(smooth(Artifact(model), SMOOTH, batches()), Ptq(kind="ptq", keep_float=kept), batches())
    onnx.save(artifact.model, tmp_path / "net.onnx")
    (tmp_path / "engine").mkdir()

    built = build_rtx(tmp_path / "net.onnx", tmp_path / "engine", RtxEngine(backend="trt_rtx"))

    assert set(built.precisions.values()) == {"int8"}
    assert len(built.precisions) == 3
