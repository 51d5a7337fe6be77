"""avcompress.quant.stages.adaround: on whole networks, against ONNX Runtime with graph optimizations off."""

import builtins

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from avcompress.quant.int8_layers import int8_layers, replace_constants
from avcompress.quant.learning.moments import fit, measure, parts
from avcompress.quant.stages.adaround import adaround, learn
from avcompress.quant.stages.correct_bias import correct_bias
from avcompress.quant.stages.ptq import quantize
from avcompress.recipe import AdaRound, CorrectBias, KeepFloat, Ptq
from avcompress.spec import Artifact, DataError, MissingError, RecipeError
from engines.in_memory import open_model
from engines.onnx_graph import infer_shapes, initializers, name_nodes, with_outputs

FAST = AdaRound(kind="adaround", steps=60, learning_rate=3e-2)


def output_noise(model, reference, batches):
    pairs = [(open_model(m).run(None, b)[0] for m in (model, reference)) for b in batches]
    return sum(float(np.square(q - f).sum()) for q, f in pairs)


def one_conv(weight, x="float[1,2,6,6] x", attributes="", y="float[1,M,6,6] y"):
    """A network of one convolution, quantized without its head kept float."""
    text = f"""<ir_version: 8, opset_import: ["" : 17]> net ({x}) => ({y}) {{ y = Conv {attributes} (x, w) }}"""
    model = parser.parse_model(text)
    model.graph.initializer.append(numpy_helper.from_array(weight.astype(np.float32), "w"))
    return infer_shapes(name_nodes(model))


def quantized(model, batches):
    keep = KeepFloat(head=False, depthwise=False, small_channels=0)
    return quantize(Artifact(model), Ptq(kind="ptq", ranges="minmax", keep_float=keep), batches)


def coarse(artifact, qmax):
    """The same artifact with weights rounded to nearest on a grid of -qmax .. qmax."""
    constants = initializers(artifact.reference)
    values = {}
    for layer in int8_layers(artifact):
        w = numpy_helper.to_array(constants[layer.float_weight])
        scale = np.maximum(np.abs(w).max(tuple(range(1, w.ndim))), 1e-6) / np.float32(qmax)
        values[layer.weight.scale_name] = scale
        values[layer.weight.tensor] = np.rint(w / scale.reshape(-1, *[1] * (w.ndim - 1)))
    return Artifact(
        replace_constants(artifact.model, values), artifact.qparams, artifact.layers, artifact.log, artifact.reference
    )


def test_a_layers_error_on_other_images_falls(small_artifact, small_batches):
    random = np.random.default_rng(9)
    others = [{"x": random.standard_normal((1, 3, 12, 12)).astype(np.float32)} for _ in range(4)]
    before = coarse(small_artifact, 7)

    after = learn(before, FAST, small_batches, (-7, 7))

    assert output_noise(after.model, after.reference, others) < 0.6 * output_noise(
        before.model, before.reference, others
    )


def test_only_the_integers_of_weights_change(small_artifact, small_batches):
    after = adaround(small_artifact, FAST, small_batches)

    weights = {layer.weight.tensor for layer in int8_layers(small_artifact)}
    old, new = initializers(small_artifact.model), initializers(after.model)
    changed = {name for name in old if old[name] != new[name]}
    assert changed
    assert changed <= weights
    assert [n.SerializeToString() for n in after.model.graph.node] == [
        n.SerializeToString() for n in small_artifact.model.graph.node
    ]
    assert after.qparams == small_artifact.qparams
    onnx.checker.check_model(after.model)


def test_every_weight_is_rounded_up_or_down(small_artifact, small_batches):
    after = adaround(small_artifact, FAST, small_batches)

    for layer in int8_layers(after):
        stored = numpy_helper.to_array(initializers(after.model)[layer.weight.tensor]).astype(float)
        steps = numpy_helper.to_array(initializers(after.reference)[layer.float_weight]) / layer.weight.broadcast(
            layer.weight.scale, stored.ndim
        )
        assert np.abs(stored - steps).max() < 1 + 1e-4


def test_the_moments_predict_the_error_that_onnx_runtime_makes():
    """All positions of one image: the quadratic form is the mean squared difference of the two networks' outputs."""
    random = np.random.default_rng(3)
    model = one_conv(random.standard_normal((4, 2, 3, 3)), attributes="<pads = [1,1,1,1]>")
    images = [{"x": random.standard_normal((1, 2, 6, 6)).astype(np.float32)} for _ in range(5)]
    artifact = coarse(quantized(model, images), 3)
    (layer,) = int8_layers(artifact)
    one = fit(artifact, layer, 0)
    learning, held = measure(artifact, [one], images, seed=0)[0]

    stored = numpy_helper.to_array(initializers(artifact.model)[layer.weight.tensor])
    change = (stored * layer.weight.broadcast(layer.weight.scale, 4)).reshape(1, 4, -1) - one.weight
    seen = [images[2], images[3], images[4]]
    outputs = [
        [open_model(m).run(None, b)[0] for b in (*seen, images[0], images[1])]
        for m in (artifact.model, artifact.reference)
    ]
    errors = np.square(np.subtract(*outputs))[:, 0].mean((2, 3))

    # Image 0 gives three quarters of its rows to one side and the rest to the other; images 1, 5, 9 ... are held out.
    low, high = errors[:3].sum(0), errors[:3].sum(0) + 4 * errors[3]
    assert (4 * learning.error(change)[0] > low * 0.999).all()
    assert (4 * learning.error(change)[0] < high).all()
    assert (2 * held.error(change)[0] > errors[4] * 0.999).all()
    assert np.allclose(learning.inputs, learning.inputs.transpose(0, 2, 1), atol=1e-5)


@pytest.mark.parametrize("gemm", [False, True], ids=["conv", "gemm"])
def test_a_bias_that_was_corrected_before_is_counted(gemm):
    """Both 0.9 are rounded to 0.63, and the bias makes up for that: to turn one up would give it twice."""
    text = """<ir_version: 8, opset_import: ["" : 17]> net (float[1,3] x) => (float[1,2] y) {
        y = Gemm <transB = 1, alpha = 0.5, beta = 2.0> (x, w, b)
    }"""
    if not gemm:
        text = """<ir_version: 8, opset_import: ["" : 17]> net (float[1,3,6,6] x) => (float[1,2,6,6] y) {
            y = Conv (x, w, b)
        }"""
    model = parser.parse_model(text)
    w = np.array([[0.9, 0.9, 1.9], [-0.9, 1.9, -0.9]], np.float32).reshape(2, 3, *([] if gemm else [1, 1]))
    for name, values in (("w", w), ("b", np.zeros(2, np.float32))):
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    random = np.random.default_rng(0)
    shape = (1, 3) if gemm else (1, 3, 6, 6)
    images = [{"x": (1 + 0.01 * random.standard_normal(shape)).astype(np.float32)} for _ in range(8)]
    before = coarse(quantized(infer_shapes(name_nodes(model)), images), 3)
    corrected = correct_bias(before, CorrectBias(kind="correct_bias"), images)
    assert output_noise(corrected.model, corrected.reference, images) < 0.01 * output_noise(
        before.model, before.reference, images
    )

    assert " 0.0 % of the weights turned" in learn(corrected, FAST, images, (-3, 3)).log[-1]
    assert " 33.3 % of the weights turned" in learn(before, FAST, images, (-3, 3)).log[-1]


def test_the_same_seed_gives_the_same_bytes(small_artifact, small_batches):
    first, second = (adaround(small_artifact, FAST, small_batches) for _ in range(2))

    assert first.model.SerializeToString() == second.model.SerializeToString()


def test_the_log_names_each_layer_and_no_error_grows(small_artifact, small_batches):
    log = adaround(small_artifact, FAST, small_batches).log[len(small_artifact.log) :]

    assert log[0].startswith("adaround: 3 layers, their outputs' error on held-out images -")
    assert [line.split()[1] for line in log[1:]] == ["Conv_0:", "Conv_2:", "Conv_4:"]
    assert all("(-" in line or "(+0.0" in line for line in log[1:])


def test_where_the_networks_outputs_get_worse_all_is_kept(small_artifact, small_batches, monkeypatch):
    """What is better layer by layer may be worse in the end."""
    assert adaround(small_artifact, FAST, small_batches).model != small_artifact.model
    monkeypatch.setattr("avcompress.output_error.output_errors", lambda *_: (0.1, 0.2))

    after = adaround(small_artifact, FAST, small_batches)

    assert after.model == small_artifact.model
    assert after.log[len(small_artifact.log)].endswith(
        "the network's outputs 0.1 -> 0.2 (+3.0 dB), so that all is kept as it was"
    )


def test_patterns_choose_the_layers(small_artifact, small_batches):
    chosen = FAST.model_copy(update={"layers": ("Conv_2", "wa")})

    log = adaround(small_artifact, chosen, small_batches).log

    assert [line.split()[1] for line in log[-2:]] == ["Conv_0:", "Conv_2:"]


def test_a_pattern_that_names_no_layer_is_refused(small_artifact, small_batches):
    with pytest.raises(RecipeError, match=r"layers: expected patterns .* got 'Comv_2'; the nearest names are Conv_2"):
        adaround(small_artifact, FAST.model_copy(update={"layers": ("Comv_2",)}), small_batches)


def test_no_image_is_refused(small_artifact):
    with pytest.raises(DataError, match="at least one image"):
        adaround(small_artifact, FAST, [])


def test_a_value_that_is_not_finite_names_its_tensor_and_image(small_artifact, small_batches):
    bad = {"x": np.full((1, 3, 12, 12), np.nan, np.float32)}

    with pytest.raises(DataError, match="calibration image 2: expected finite values"):
        adaround(small_artifact, FAST, [small_batches[0], bad])


def test_one_image_is_enough(small_artifact, small_batches):
    assert "3 layers" in adaround(small_artifact, FAST, small_batches[:1]).log[len(small_artifact.log)]


def test_missing_torch_is_named_with_its_command(small_artifact, small_batches, monkeypatch):
    real = builtins.__import__

    def without_torch(name, *args, **kwargs):
        if name == "torch":
            raise ModuleNotFoundError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_torch)
    with pytest.raises(MissingError, match=r'pip install "avcompress\[train\]"'):
        adaround(small_artifact, FAST, small_batches)


def test_depthwise_gemm_and_matmul_layers_are_rounded_and_transposed_and_shared_ones_left():
    text = """<ir_version: 8, opset_import: ["" : 17]> net (float[1,4,6,6] x) => (float[1,3] y) {
        d = Conv <group = 4, pads = [1,1,1,1]> (x, wd)
        s = Conv (d, ws)
        t = Conv (s, ws)
        p = GlobalAveragePool (t)
        f = Flatten (p)
        g = Gemm <transB = 1> (f, wg, bg)
        y = MatMul (g, wm)
    }"""
    model = parser.parse_model(text)
    random = np.random.default_rng(0)
    shapes = {"wd": (4, 1, 3, 3), "ws": (4, 4, 1, 1), "wg": (5, 4), "bg": (5,), "wm": (5, 3)}
    for name, shape in shapes.items():
        model.graph.initializer.append(numpy_helper.from_array(random.standard_normal(shape).astype(np.float32), name))
    images = [{"x": random.standard_normal((1, 4, 6, 6)).astype(np.float32)} for _ in range(6)]
    artifact = quantized(infer_shapes(name_nodes(model)), images)

    after = adaround(artifact, FAST, images)

    assert [layer.float_weight for layer in int8_layers(after)] == ["wd", "wg", "wm"]
    assert "3 layers" in after.log[len(artifact.log)]
    assert output_noise(after.model, after.reference, images) < 1.1 * output_noise(
        artifact.model, artifact.reference, images
    )


def test_layers_are_taken_together_while_their_moments_fit(small_artifact, monkeypatch):
    fits = [fit(small_artifact, layer, i) for i, layer in enumerate(int8_layers(small_artifact))]

    assert [len(part) for part in parts(fits)] == [3]
    monkeypatch.setattr("avcompress.quant.learning.moments.BUDGET_BYTES", fits[0].size_bytes + fits[1].size_bytes)
    assert [len(part) for part in parts(fits)] == [2, 1]
    monkeypatch.setattr("avcompress.quant.learning.moments.BUDGET_BYTES", 1)
    assert [len(part) for part in parts(fits)] == [1, 1, 1]


def test_batches_of_several_images_count_each_image(small_artifact, small_batches):
    stacked = [{"x": np.concatenate([b["x"] for b in small_batches])}]

    one_by_one, together = (adaround(small_artifact, FAST, b) for b in (small_batches, stacked))

    assert one_by_one.model.SerializeToString() == together.model.SerializeToString()


def test_the_output_can_be_read_by_name_as_before(small_artifact, small_batches):
    after = adaround(small_artifact, FAST, small_batches)

    (value,) = open_model(with_outputs(after.model, ["b"])).run(["b"], small_batches[0])
    assert value.shape == (1, 6, 12, 12)
