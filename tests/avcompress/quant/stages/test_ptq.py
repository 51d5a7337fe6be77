"""avcompress.quant.stages.ptq: whole networks, against ONNX Runtime with graph optimizations off."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from avcompress.quant.plan import prepare
from avcompress.quant.stages.ptq import calibrate, calibration_settings, candidates, quantize
from avcompress.recipe import KeepFloat, Preprocess, Ptq, SceneSource
from avcompress.spec import Artifact, DataError, RecipeError
from calibration.batches import Batches, NamedBatch
from calibration.source import open_source
from calibration.statistics import merge_statistics
from engines.onnx_graph import infer_shapes, name_nodes
from engines.onnx_load import load_onnx
from engines.qdq import quantize_array

PTQ = Ptq(kind="ptq")


def residual_net(seed=0):
    """Convolutions with batch norms and a skip, dilated, transposed, PReLU after a concat, Gemm: one of each."""
    rng = np.random.default_rng(seed)
    constants = {}

    def constant(name, value):
        constants[name] = np.asarray(value, np.float32)
        return name

    def conv(name, source, o, i, k=3, **attributes):
        w = constant(f"{name}.w", rng.standard_normal((o, i, k, k)) / np.sqrt(i * k * k))
        dilation = attributes.get("dilations", [1, 1])[0]
        return helper.make_node("Conv", [source, w], [name], name, pads=[dilation * (k // 2)] * 4, **attributes)

    def norm(name, source, channels):
        values = (rng.uniform(0.5, 2, channels), rng.standard_normal(channels) / 4) * 2
        keys = [constant(f"{name}.{key}", value) for key, value in zip("gbmv", values, strict=True)]
        constants[f"{name}.v"] = rng.uniform(0.5, 2, channels).astype(np.float32)
        return helper.make_node("BatchNormalization", [source, *keys], [name], name)

    nodes = [
        conv("stem", "x", 8, 3),
        norm("stem.bn", "stem", 8),
        helper.make_node("Relu", ["stem.bn"], ["r"], "r"),
        conv("a", "r", 8, 8),
        norm("a.bn", "a", 8),
        helper.make_node("Relu", ["a.bn"], ["ar"], "ar"),
        conv("b", "ar", 8, 8, dilations=[2, 2]),
        helper.make_node("Add", ["b", "r"], ["sum"], "sum"),
        conv("dw", "sum", 8, 1, group=8),
        helper.make_node("Concat", ["sum", "dw"], ["cat"], "cat", axis=1),
        norm("cat.bn", "cat", 16),
        helper.make_node("PRelu", ["cat.bn", constant("slope", np.full((16, 1, 1), 0.2))], ["p"], "p"),
        conv("c", "p", 8, 16, 1),
        helper.make_node("ConvTranspose", ["c", constant("up.w", rng.standard_normal((8, 4, 2, 2)))], ["up"], "up"),
        helper.make_node("GlobalAveragePool", ["up"], ["pool"], "pool"),
        helper.make_node("Flatten", ["pool"], ["flat"], "flat"),
        helper.make_node("Gemm", ["flat", constant("fc.w", rng.standard_normal((4, 6)))], ["fc"], "fc"),
        helper.make_node("MatMul", ["fc", constant("y.w", rng.standard_normal((6, 5)))], ["y"], "y"),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, 16, 16))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 5))],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return infer_shapes(name_nodes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)))


def batches(n=8, seed=1):
    return [{"x": np.random.default_rng(seed + i).standard_normal((1, 3, 16, 16)).astype(np.float32)} for i in range(n)]


def run(model, feeds):
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(model.SerializeToString(), options).run(None, feeds)[0]


@pytest.fixture(scope="module")
def quantized():
    return quantize(Artifact(residual_net(), log=("loaded",)), PTQ, batches())


def test_the_quantized_network_stays_close_to_the_float_one(quantized):
    model = residual_net()
    pairs = [(run(model, b), run(quantized.model, b)) for b in batches(8, seed=100)]

    noise = sum(np.sum((f - q) ** 2) for f, q in pairs)
    assert 0 < noise < 1e-3 * sum(np.sum(f**2) for f, _ in pairs)


def test_the_sites_are_the_inputs_of_int8_layers_and_the_skip(quantized):
    quantizers = [n.input[0] for n in quantized.model.graph.node if n.op_type == "QuantizeLinear"]

    assert quantizers == ["x", "r", "ar", "p", "flat"]  # r serves `a` and the addition
    assert set(quantized.qparams) == {*quantizers, "stem.w", "a.w", "b.w", "c.w", "fc.w"}
    addition = next(n for n in quantized.model.graph.node if n.name == "sum")
    assert list(addition.input) == ["b", "r_dequantized"]


def test_the_plan_and_the_log_say_what_was_done(quantized):
    plan = {layer.name: layer.reason for layer in quantized.layers}

    assert plan == {
        "stem": "input and weight are quantized",
        "a": "input and weight are quantized",
        "b": "input and weight are quantized",
        "dw": "depthwise: no faster in INT8 on TensorRT, and it loses accuracy",
        "c": "input and weight are quantized",
        "up": "transposed convolution: computed in FP16 by TensorRT",
        "fc": "input and weight are quantized",
        "y": "head: a last layer before an output (keep_float.head)",
    }
    assert quantized.log[0] == "loaded"
    assert quantized.log[1].startswith("ptq: 5 of 8 layers in INT8, ")


def test_every_quantizer_is_symmetric_and_only_weights_are_per_channel(quantized):
    assert all(set(params.zero_point) == {0} for params in quantized.qparams.values())
    assert {name: params.axis for name, params in quantized.qparams.items() if params.axis is not None} == {
        "stem.w": 0,
        "a.w": 0,
        "b.w": 0,
        "c.w": 0,
        "fc.w": 1,
    }


def test_the_network_equals_a_fake_quantized_evaluation_in_numpy():
    """One 1x1 convolution, small enough to write down; the oracle is ONNX Runtime."""
    rng = np.random.default_rng(5)
    w = rng.standard_normal((4, 3, 1, 1)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], "conv")],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, 16, 16))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 4, 16, 16))],
        [numpy_helper.from_array(w, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    artifact = quantize(Artifact(model), Ptq(kind="ptq", keep_float=KeepFloat(head=False)), batches())
    (feeds,) = batches(1)

    px, pw = artifact.qparams["x"], artifact.qparams["w"]
    qx = quantize_array(feeds["x"], px).astype(np.int64)[0]
    qw = quantize_array(w, pw).astype(np.int64)[:, :, 0, 0]
    expected = np.einsum("oc,chw->ohw", qw, qx) * px.scale[0] * np.array(pw.scale)[:, None, None]

    assert np.allclose(run(artifact.model, feeds)[0], expected, atol=1e-5)
    assert pw.scale == pytest.approx(np.abs(w).max((1, 2, 3)) / 127)


def test_the_same_inputs_give_the_same_bytes(quantized):
    again = quantize(Artifact(residual_net()), PTQ, batches()[::-1])

    assert again.model.SerializeToString() == quantized.model.SerializeToString()


def test_the_given_network_is_not_changed():
    model = residual_net()
    before = model.SerializeToString()

    quantize(Artifact(model), PTQ, batches(1))

    assert model.SerializeToString() == before


def test_minmax_ranges_reach_the_largest_value():
    artifact = quantize(Artifact(residual_net()), Ptq(kind="ptq", ranges="minmax"), batches())

    assert artifact.qparams["x"].scale[0] == pytest.approx(max(np.abs(b["x"]).max() for b in batches()) / 127)


def test_dead_channels_and_dead_tensors_are_quantized_to_zero():
    model = residual_net()
    for tensor in model.graph.initializer:
        if tensor.name == "a.w":
            tensor.CopyFrom(numpy_helper.from_array(np.zeros((8, 8, 3, 3), np.float32), "a.w"))

    artifact = quantize(Artifact(model), PTQ, [{"x": np.zeros((1, 3, 16, 16), np.float32)}])

    assert np.isfinite(run(artifact.model, batches(1)[0])).all()


def test_an_empty_calibration_set_is_refused():
    with pytest.raises(DataError, match="expected at least one image"):
        quantize(Artifact(residual_net()), PTQ, [])


def test_a_pattern_that_matches_nothing_is_refused_before_calibration():
    def untouched():
        raise AssertionError
        yield

    with pytest.raises(RecipeError, match="stam"):
        quantize(Artifact(residual_net()), Ptq(kind="ptq", keep_float=KeepFloat(layers=("stam",))), untouched())


def test_a_network_with_nothing_to_quantize_stays_as_it_is():
    keep = KeepFloat(layers=("*",))

    artifact = quantize(Artifact(residual_net()), Ptq(kind="ptq", keep_float=keep), batches(1))

    assert not artifact.qparams
    assert "QuantizeLinear" not in {n.op_type for n in artifact.model.graph.node}


def test_yolox_nano_gets_int8_in_all_but_heads_and_depthwise_layers(data_root):
    model = load_onnx(data_root / "models" / "yolox_nano.onnx", (416, 416))
    image = np.random.default_rng(0).uniform(0, 255, (1, 3, 416, 416)).astype(np.float32)

    artifact = quantize(Artifact(model), PTQ, [{"images": image}])

    int8 = [layer for layer in artifact.layers if layer.precision == "int8"]
    assert len(int8) == 74
    assert sum(layer.macs for layer in int8) > 0.9 * sum(layer.macs for layer in artifact.layers)
    skips = [n for n in artifact.model.graph.node if n.op_type == "Add" and any("_dequantized" in t for t in n.input)]
    assert len(skips) == 7
    onnx.checker.check_model(artifact.model)


# --- formats, ranges, statistics

RANGES = ("mse", "minmax", "moving_average", "percentile", "entropy")


def noise_db(artifact):
    """Signal to noise of the output over images that the calibration did not see."""
    model = residual_net()
    pairs = [(run(model, b), run(artifact.model, b)) for b in batches(8, seed=100)]
    return 10 * np.log10(sum(np.sum(f**2) for f, _ in pairs) / sum(np.sum((f - q) ** 2) for f, q in pairs))


@pytest.fixture(scope="module")
def statistics():
    return calibrate(Artifact(residual_net()), PTQ, batches())


def untouched():
    raise AssertionError
    yield


@pytest.mark.parametrize("activations", ["symmetric", "asymmetric"])
@pytest.mark.parametrize("ranges", RANGES)
def test_every_method_quantizes_from_the_same_statistics_without_another_pass(statistics, ranges, activations):
    settings = Ptq(kind="ptq", ranges=ranges, activations=activations)

    artifact = quantize(Artifact(residual_net()), settings, untouched(), statistics)

    # Entropy takes the toy's values that occur most for the end of the range.
    assert noise_db(artifact) > (0 if ranges == "entropy" else 20)
    again = quantize(Artifact(residual_net()), settings, batches())
    assert artifact.model.SerializeToString() == again.model.SerializeToString()


def test_asymmetric_activations_have_zero_points_and_less_noise(statistics):
    symmetric, asymmetric = (
        quantize(Artifact(residual_net()), Ptq(kind="ptq", activations=kind), (), statistics)
        for kind in ("symmetric", "asymmetric")
    )

    assert asymmetric.qparams["r"].zero_point == (-128,)  # after a Relu all 256 levels are above zero
    assert asymmetric.qparams["r"].scale[0] < 0.6 * symmetric.qparams["r"].scale[0]
    assert set(asymmetric.qparams["a.w"].zero_point) == {0}
    assert noise_db(asymmetric) > noise_db(symmetric)


def test_fp8_is_planned_and_stored_as_fp8(statistics):
    artifact = quantize(Artifact(residual_net()), Ptq(kind="ptq", format="fp8"), (), statistics)

    assert {layer.precision for layer in artifact.layers} == {"fp8", "float"}
    assert {params.dtype for params in artifact.qparams.values()} == {"float8e4m3fn"}
    assert artifact.log[0].startswith("ptq: 5 of 8 layers in FP8")
    assert noise_db(artifact) > 15


def test_weights_can_have_one_scale_a_tensor(statistics):
    artifact = quantize(Artifact(residual_net()), Ptq(kind="ptq", weights="per_tensor"), (), statistics)

    assert all(params.axis is None and len(params.scale) == 1 for params in artifact.qparams.values())


def test_statistics_of_parts_give_the_bytes_of_one_run():
    images = batches(7)
    parts = {str(i): calibrate(Artifact(residual_net()), PTQ, named(images)[i::3]) for i in (1, 0, 2)}

    for ranges in RANGES:
        settings = Ptq(kind="ptq", ranges=ranges)
        merged = quantize(Artifact(residual_net()), settings, (), merge_statistics(parts))
        whole = quantize(Artifact(residual_net()), settings, named(images))
        assert merged.model.SerializeToString() == whole.model.SerializeToString()


def named(images):
    return [NamedBatch(image, (f"{i:03d}.jpg",)) for i, image in enumerate(images)]


def test_one_image_is_enough():
    for ranges in RANGES:
        artifact = quantize(Artifact(residual_net()), Ptq(kind="ptq", ranges=ranges), batches(1))

        assert noise_db(artifact) > (0 if ranges == "entropy" else 10)


def test_what_calibration_depends_on_leaves_the_methods_out():
    one = calibration_settings(PTQ)

    assert one == calibration_settings(Ptq(kind="ptq", ranges="entropy", format="fp8", percentile=99, statistics="x"))
    assert one != calibration_settings(Ptq(kind="ptq", keep_float=KeepFloat(head=False)))
    assert one != calibration_settings(Ptq(kind="ptq", rules="cpu"))


def test_statistics_of_another_network_are_refused(statistics):
    with pytest.raises(DataError, match=r"ptq\.statistics: expected those of this network, .*, got those of"):
        quantize(Artifact(residual_net(seed=3)), PTQ, (), statistics)


def test_statistics_of_other_tensors_are_refused(statistics):
    wider = Ptq(kind="ptq", keep_float=KeepFloat(head=False, depthwise=False))

    with pytest.raises(
        DataError, match=r"ptq\.statistics: expected those of 7 tensors, 2 are missing, 'sum' the first"
    ):
        quantize(Artifact(residual_net()), wider, (), statistics)


def test_statistics_of_another_preprocessing_are_refused():
    source = open_source(SceneSource(format="scenes", count=2, size=(32, 48)), None, None)
    one, other = (Batches(source, Preprocess(size=(16, 16), scale=scale), "x") for scale in (1.0, 0.5))
    statistics = calibrate(Artifact(residual_net()), PTQ, one)

    quantize(Artifact(residual_net()), PTQ, one, statistics)
    with pytest.raises(DataError, match=r"ptq\.statistics: expected those of images preprocessed as the recipe says"):
        quantize(Artifact(residual_net()), PTQ, other, statistics)


def test_the_candidates_hold_what_any_settings_ask_for():
    model = prepare(residual_net())
    keeps = [KeepFloat(), KeepFloat(head=False, depthwise=False), KeepFloat(layers=("a", "stem"))]

    found = candidates(model)

    assert found[0] == "x"
    assert len(set(found)) == len(found)
    wanted = {
        tensor
        for keep in keeps
        for rules in ("tensorrt", "cpu")
        for tensor in calibrate(
            Artifact(residual_net()), Ptq(kind="ptq", keep_float=keep, rules=rules), batches(1)
        ).tensors
    }
    assert wanted <= set(found)
    assert {"b", "r", "sum", "dw"} <= set(found)  # both sides of the addition, and of the concatenation


def upsampling_net():
    """A tensor and its enlarged copy, both inputs of convolutions: one scale serves both, if the values suit."""
    rng = np.random.default_rng(0)
    weights = {f"{name}.w": rng.standard_normal((4, 4, 3, 3)) / 6 for name in "abc"}
    weights["stem.w"] = rng.standard_normal((4, 3, 3, 3)) / 5
    constants = [numpy_helper.from_array(np.float32(w), name) for name, w in weights.items()]
    constants.append(numpy_helper.from_array(np.float32([1, 1, 2, 2]), "sizes"))

    def conv(name, source):
        return helper.make_node("Conv", [source, f"{name}.w"], [name], name, pads=[1] * 4)

    nodes = [
        conv("stem", "x"),
        helper.make_node("Relu", ["stem"], ["r"], "r"),
        conv("a", "r"),
        helper.make_node("Resize", ["r", "", "sizes"], ["up"], "up", mode="nearest"),
        conv("b", "up"),
        helper.make_node("MaxPool", ["b"], ["down"], "down", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Add", ["a", "down"], ["sum"], "sum"),
        conv("c", "sum"),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, 16, 16))],
        [helper.make_tensor_value_info("c", TensorProto.FLOAT, (1, 4, 16, 16))],
        constants,
    )
    return infer_shapes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


def test_tied_tensors_have_one_scale():
    artifact = quantize(Artifact(upsampling_net()), Ptq(kind="ptq", keep_float=KeepFloat(head=False)), batches())

    assert artifact.qparams["r"] == artifact.qparams["up"]


def test_a_tie_that_is_cut_is_in_the_log(monkeypatch):
    monkeypatch.setattr("avcompress.quant.ties.LOSS_DB", -1.0)

    artifact = quantize(Artifact(upsampling_net()), Ptq(kind="ptq", keep_float=KeepFloat(head=False)), batches())

    assert any(line.startswith("ptq: ") and "keeps a scale of its own" in line for line in artifact.log)


def test_statistics_serve_both_formats_where_they_quantize_other_layers(parsed):
    text = """<ir_version: 8, opset_import: ["" : 17]> n (float[1,3,12,12] x) => (float[1,4,6,6] y) {
        a = Conv(x, wa) r = Relu(a) y = Conv(r, wy) }"""
    model = parsed(text, {"wa": (8, 3, 7, 7), "wy": (4, 8, 1, 1)})
    images = [{"x": np.random.default_rng(0).standard_normal((1, 3, 12, 12)).astype(np.float32)}]
    int8, fp8 = (Ptq(kind="ptq", format=name, keep_float=KeepFloat(head=False)) for name in ("int8", "fp8"))

    for asked in (int8, fp8):
        statistics = calibrate(Artifact(model), asked, images)
        planned = {
            stage.format: [layer.precision for layer in quantize(Artifact(model), stage, (), statistics).layers]
            for stage in (int8, fp8)
        }
        assert planned == {"int8": ["int8", "int8"], "fp8": ["float", "fp8"]}
