"""avcompress.quant.stages.correct_bias: the means come back; against sums by hand and against networks that are run."""

from dataclasses import replace

import numpy as np
import pytest
from onnx import numpy_helper

from avcompress.quant.apply import apply
from avcompress.quant.channels.means import dequantized_and_means
from avcompress.quant.stages.correct_bias import correct_bias, expected_shifts, measured_shifts, quantized_layers
from avcompress.quant.stages.ptq import quantize
from avcompress.recipe import CorrectBias, Equalize, KeepFloat, Ptq, Smooth
from avcompress.spec import Artifact, DataError
from engines.in_memory import open_model
from engines.onnx_graph import initializers, with_outputs

EMPIRICAL = CorrectBias(kind="correct_bias")
ANALYTIC = CorrectBias(kind="correct_bias", method="analytic")
EVERYTHING = KeepFloat(head=False, depthwise=False, small_channels=0, squeeze_excite=False)
PTQ = Ptq(kind="ptq", keep_float=EVERYTHING)
HEAD = '<ir_version: 8, opset_import: ["" : %d]> net (float[1,3,8,8] x) => (float[1,4,N,M] y)'


def batches(count=6, offset=0.5):
    return [
        {"x": (np.random.default_rng(i).standard_normal((1, 3, 8, 8)) + offset).astype(np.float32)}
        for i in range(count)
    ]


def mean_difference(artifact, tensor, images):
    """The mean of quantized minus float by channel, by running both networks."""
    total = 0
    for batch in images:
        pair = [
            open_model(with_outputs(m, [tensor])).run([tensor], batch)[0] for m in (artifact.model, artifact.reference)
        ]
        total = total + (pair[0].astype(np.float64) - pair[1]).mean((0, 2, 3))
    return total / len(images)


def coarse(artifact):
    """The same with weights rounded to a fourth of their levels: every layer's mean shifts."""
    for tensor in artifact.model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.int8 and values.ndim > 1:
            tensor.CopyFrom(numpy_helper.from_array((values // 16 * 16).astype(np.int8), tensor.name))
    return artifact


ONE = HEAD % 17 + "{ y = Conv <pads=[1,1,1,1]> (x, w%s) }"


@pytest.mark.parametrize("bias", ["", ", b"], ids=["no bias", "bias"])
def test_the_mean_of_one_layer_is_exact_afterwards(parsed, bias):
    model = parsed(ONE % bias, {"w": (4, 3, 3, 3)} | ({"b": (4,)} if bias else {}))
    artifact = coarse(quantize(Artifact(model), PTQ, batches()))
    before = mean_difference(artifact, "y", batches())

    after = correct_bias(artifact, EMPIRICAL, batches())

    assert np.abs(before).max() > 0.05
    assert np.abs(mean_difference(after, "y", batches())).max() < 1e-5
    assert after.log[-1].startswith("correct_bias: 1 of 1 layers, empirical; mean shift removed ")
    assert after.reference is artifact.reference


def test_a_shift_by_hand(parsed):
    """1x1 weights of 1 stored as 64/127 of a step too few: the mean of what is missing is added."""
    model = parsed(HEAD % 17 + "{ y = Conv (x, w, b) }", {"w": np.ones((4, 3, 1, 1)), "b": np.zeros(4)})
    artifact = quantize(Artifact(model), Ptq(kind="ptq", keep_float=EVERYTHING, ranges="minmax"), batches())
    for tensor in artifact.model.graph.initializer:
        if tensor.name == "w_quantized":
            tensor.CopyFrom(numpy_helper.from_array(np.full((4, 3, 1, 1), 126, np.int8), tensor.name))
    images = [{"x": np.full((1, 3, 8, 8), artifact.qparams["x"].scale[0] * 100, np.float32)}]

    after = correct_bias(artifact, EMPIRICAL, images)

    missing = 3 * artifact.qparams["x"].scale[0] * 100 / 127
    (node,) = [n for n in after.model.graph.node if n.op_type == "Conv"]
    assert numpy_helper.to_array(initializers(after.model)[node.input[2]]) == pytest.approx([missing] * 4, rel=1e-4)


DEEP = (
    "{ a = Conv <pads=[1,1,1,1]> (x, w1, b)  s = Sigmoid (a)  r = Mul (a, s)"
    "d = Conv <group=4, pads=[1,1,1,1]> (r, wd)"
    "t = HardSwish (d)  c = Conv (t, w2, b)  z = Add (c, r)  y = Conv (z, w3) }"
)
DEEP_SHAPES = {"w1": (4, 3, 3, 3), "b": (4,), "wd": (4, 1, 3, 3), "w2": (4, 4, 1, 1), "w3": (4, 4, 1, 1)}


@pytest.mark.parametrize("opset", [14, 17, 18, 21])
@pytest.mark.parametrize("seed", range(2))
def test_a_deep_network_comes_nearer_to_the_float_one(parsed, opset, seed):
    artifact = coarse(quantize(Artifact(parsed(HEAD % opset + DEEP, DEEP_SHAPES, seed)), PTQ, batches()))

    after = correct_bias(artifact, EMPIRICAL, batches())

    before, now = (np.abs(mean_difference(a, "y", batches())).mean() for a in (artifact, after))
    assert now < before / 3
    assert "4 of 4 layers" in after.log[-1]


@pytest.mark.parametrize("bias", ["", ", b"], ids=["no bias", "bias"])
def test_what_is_corrected_already_is_not_corrected_again(parsed, bias):
    model = parsed(ONE % bias, {"w": (4, 3, 3, 3)} | ({"b": (4,)} if bias else {}))
    once = correct_bias(coarse(quantize(Artifact(model), PTQ, batches())), EMPIRICAL, batches())

    twice = correct_bias(once, EMPIRICAL, batches())

    assert np.abs(mean_difference(twice, "y", batches())).max() < 1e-5
    node = once.reference.graph.node[0].name
    assert measured_shifts(once, quantized_layers(once), batches())[node] == pytest.approx(np.zeros(4), abs=1e-5)


def test_each_layer_is_measured_on_the_float_networks_own_input(parsed):
    """The oracle builds every layer by itself: float input, through its Q/DQ, through the quantized weights."""
    artifact = coarse(quantize(Artifact(parsed(HEAD % 17 + DEEP, DEEP_SHAPES)), PTQ, batches()))
    shifts = measured_shifts(artifact, quantized_layers(artifact), batches())

    for name, tensor in (("w2", "t"), ("w3", "z")):
        node = next(n for n in artifact.reference.graph.node if name in n.input)
        scale = artifact.qparams[tensor].scale[0]
        weights = numpy_helper.to_array(initializers(artifact.model)[f"{name}_quantized"]).astype(np.float64)
        weights *= np.array(artifact.qparams[name].scale)[:, None, None, None]
        exact = numpy_helper.to_array(initializers(artifact.reference)[name]).astype(np.float64)
        expected = 0
        for batch in batches():
            data = open_model(with_outputs(artifact.reference, [tensor])).run([tensor], batch)[0].astype(np.float64)
            rounded = np.clip(np.rint((data / scale).astype(np.float32)), -128, 127) * scale
            expected = expected + (
                weights[:, :, 0, 0] @ rounded[0].mean((1, 2)) - exact[:, :, 0, 0] @ data[0].mean((1, 2))
            )
        assert shifts[node.name] == pytest.approx(expected / 6, abs=1e-5)


def test_matrix_layers_get_their_bias_by_column(parsed):
    text = (
        '<ir_version: 8, opset_import: ["" : 17]> net (float[1,3,8,8] x) => (float[1,5] y) {'
        "p = GlobalAveragePool (x)  f = Flatten (p)  g = Gemm <beta=0.5> (f, w1, c)  h = Gemm <transB=1> (g, w2)"
        "m = MatMul (h, w3)  y = Relu (m) }"
    )
    model = parsed(text, {"w1": (3, 6), "c": (1, 6), "w2": (7, 6), "w3": (7, 5)})
    artifact = coarse(quantize(Artifact(model), PTQ, batches()))

    after = correct_bias(artifact, EMPIRICAL, batches())

    assert after.log[-1].endswith("left alone: 1 without a constant bias to correct")
    for tensor in ("g", "h"):
        pairs = [
            [open_model(with_outputs(a, [tensor])).run([tensor], b)[0] for a in (after.model, artifact.model, model)]
            for b in batches()
        ]
        corrected, plain, exact = np.mean(pairs, axis=0)
        assert np.abs(corrected - exact).mean() < np.abs(plain - exact).mean() / 3


def test_biases_that_layers_share_are_parted(parsed):
    artifact = coarse(quantize(Artifact(parsed(HEAD % 17 + DEEP, DEEP_SHAPES)), PTQ, batches()))

    after = correct_bias(artifact, EMPIRICAL, batches())

    first, second = (next(n for n in after.model.graph.node if n.output[0] == t).input[2] for t in ("a", "c"))
    assert first != second


def test_the_given_networks_are_not_changed_and_the_order_of_images_does_not_matter(parsed):
    artifact = quantize(Artifact(parsed(HEAD % 17 + DEEP, DEEP_SHAPES)), PTQ, batches())
    before = artifact.model.SerializeToString(), artifact.reference.SerializeToString()

    first, second = (correct_bias(artifact, EMPIRICAL, images) for images in (batches(4), batches(4)))

    assert (artifact.model.SerializeToString(), artifact.reference.SerializeToString()) == before
    assert first.model.SerializeToString() == second.model.SerializeToString()


def test_images_are_needed_and_must_be_finite(parsed):
    artifact = quantize(Artifact(parsed(HEAD % 17 + DEEP, DEEP_SHAPES)), PTQ, batches())

    with pytest.raises(DataError, match="expected at least one image"):
        correct_bias(artifact, EMPIRICAL, [])
    with pytest.raises(DataError, match=r"layer '.*', calibration image 2: expected finite values"):
        correct_bias(artifact, EMPIRICAL, [*batches(1), {"x": np.full((1, 3, 8, 8), np.inf, np.float32)}])


def test_fp8_is_corrected_too(parsed):
    ptq = Ptq(kind="ptq", format="fp8", keep_float=EVERYTHING)
    artifact = quantize(Artifact(parsed(ONE % "", {"w": (4, 3, 3, 3)})), ptq, batches())

    after = correct_bias(artifact, EMPIRICAL, batches())

    before, now = (np.abs(mean_difference(a, "y", batches())).max() for a in (artifact, after))
    assert now < before / 100


def test_the_stages_work_one_after_the_other_as_in_a_recipe(parsed):
    stages = (Equalize(kind="equalize"), Smooth(kind="smooth"), PTQ, EMPIRICAL)
    model = parsed(HEAD % 17 + DEEP, DEEP_SHAPES)
    artifact, alone = Artifact(model), quantize(Artifact(model), PTQ, batches())
    for stage in stages:
        artifact = apply(stage, artifact, batches())

    assert [line.partition(":")[0] for line in artifact.log] == [stage.kind for stage in stages]
    errors = [np.abs(mean_difference(replace(a, reference=model), "y", batches())).mean() for a in (alone, artifact)]
    assert errors[1] < errors[0]


# --- analytic

NORMED = HEAD % 17 + "{ c = Conv (x, w1)  n = BatchNormalization (c, g, b, m, v)  r = %s  y = Conv (r, w2)  }"


def normed(parsed, activation):
    rng = np.random.default_rng(5)
    norm = {"g": rng.uniform(-2, 2, 6), "b": rng.uniform(-2, 2, 6), "m": np.zeros(6), "v": np.ones(6)}
    model = parsed(NORMED % activation, {"w1": (6, 3, 1, 1), "w2": (4, 6, 1, 1), "slope": (6, 1, 1), **norm})
    return model, norm


@pytest.mark.parametrize(
    ("activation", "function"),
    [
        ("Relu (n)", lambda z: np.maximum(z, 0)),
        ("PRelu (n, slope)", None),
        ("HardSwish (n)", lambda z: z * np.clip(z / 6 + 0.5, 0, 1)),
        ("Sigmoid (n)", lambda z: 1 / (1 + np.exp(-z))),
        ("Identity (n)", lambda z: z),
    ],
)
def test_the_mean_behind_a_norm_is_that_of_samples(parsed, activation, function):
    """Also through the norm that was folded into its convolution, whose statistics are kept there."""
    model, norm = normed(parsed, activation)
    artifact = quantize(Artifact(model), PTQ, batches())
    z = norm["b"] + np.abs(norm["g"]) * np.random.default_rng(0).standard_normal((400_000, 1))
    if function is None:
        slope = numpy_helper.to_array(initializers(model)["slope"]).reshape(-1)
        samples = np.where(z > 0, z, z * slope)
    else:
        samples = function(z)

    for network in (model, artifact.reference):
        assert dequantized_and_means(network, ["r"])["r"] == pytest.approx(samples.mean(0), abs=0.01)


def test_the_closed_form_of_a_clipped_normal_distribution_is_met(parsed):
    """Nagel et al., arXiv:1906.04721, appendix C: E = gamma N(-beta / gamma) + beta (1 - Phi(-beta / gamma))."""
    from statistics import NormalDist

    model, norm = normed(parsed, "Relu (n)")
    normal = NormalDist()
    expected = [
        abs(g) * normal.pdf(-b / abs(g)) + b * (1 - normal.cdf(-b / abs(g)))
        for g, b in zip(norm["g"], norm["b"], strict=True)
    ]

    assert dequantized_and_means(model, ["r"])["r"] == pytest.approx(expected, abs=1e-3)


def test_the_analytic_shift_is_the_weights_error_times_the_mean(parsed):
    artifact = coarse(quantize(Artifact(normed(parsed, "Relu (n)")[0]), PTQ, batches()))
    layers = quantized_layers(artifact)

    shifts = expected_shifts(artifact, layers)

    node = next(n for n in artifact.reference.graph.node if "w2" in n.input)
    assert list(shifts) == [node.name]  # nothing is known of the image
    weights = numpy_helper.to_array(initializers(artifact.model)["w2_quantized"]).astype(np.float64)
    weights = weights[:, :, 0, 0] * np.array(artifact.qparams["w2"].scale)[:, None]
    exact = numpy_helper.to_array(initializers(artifact.reference)["w2"])[:, :, 0, 0].astype(np.float64)
    means = dequantized_and_means(artifact.model, ["r", "r_dequantized"])
    assert means["r_dequantized"] == pytest.approx(means["r"], abs=0.05)
    assert shifts[node.name] == pytest.approx(weights @ means["r_dequantized"] - exact @ means["r"], abs=1e-5)


def test_the_analytic_method_counts_what_the_bias_has_by_now(parsed):
    once = correct_bias(coarse(quantize(Artifact(normed(parsed, "Relu (n)")[0]), PTQ, batches())), ANALYTIC, iter(()))

    (left,) = expected_shifts(once, quantized_layers(once)).values()

    assert left == pytest.approx(np.zeros(len(left)), abs=1e-5)


def test_the_analytic_method_needs_no_images_and_says_what_it_cannot_know(parsed):
    artifact = coarse(quantize(Artifact(normed(parsed, "Relu (n)")[0]), PTQ, batches()))

    after = correct_bias(artifact, ANALYTIC, iter(()))

    assert "correct_bias: 1 of 2 layers, analytic" in after.log[-1]
    assert after.log[-1].endswith("left alone: 1 with an input of unknown distribution (no batch norm before it)")
    # Images whose first layer gives what the norm's statistics say: means near the expected ones.
    images = [{"x": b["x"] - np.float32(0.5)} for b in batches(20)]
    before, now = (np.abs(mean_difference(a, "y", images)).mean() for a in (artifact, after))
    assert now < before


def test_nothing_is_known_behind_sums_of_two_norms_or_a_pool(parsed):
    text = HEAD % 17 + (
        "{ n = BatchNormalization (x, g, b, m, v)  o = BatchNormalization (x, g, g, m, v)  s = Add (n, o)"
        "p = MaxPool <kernel_shape=[2,2]> (n)  c = Concat <axis=1> (n, o)  q = Relu (c)  y = Conv (s, w) }"
    )
    model = parsed(text, {"g": np.ones(3), "b": np.zeros(3), "m": np.zeros(3), "v": np.ones(3), "w": (4, 3, 1, 1)})

    found = dequantized_and_means(model, ["n", "s", "p", "q", "x"])

    assert set(found) == {"n", "q"}
    assert found["q"] == pytest.approx([0.3989] * 3 + [1.0833] * 3, abs=1e-3)  # E max(N(0,1),0), E max(N(1,1),0)
