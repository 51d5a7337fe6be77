"""Dynamic, weight-only and cast: whole networks on the engines that take them, against ONNX Runtime."""

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from avcompress.quant.apply import apply
from avcompress.quant.params import activation_params
from avcompress.quant.stages.cast import cast
from avcompress.quant.stages.dynamic import quantize_dynamic
from avcompress.quant.stages.ptq import quantize
from avcompress.quant.stages.weight_only import quantize_weights
from avcompress.recipe import Cast, Dynamic, KeepFloat, OpenVinoEngine, Ptq, RtxEngine, WeightOnly
from avcompress.spec import Artifact, RecipeError, TensorRange
from engines.in_memory import open_model
from engines.layer_map import compare
from engines.onnx_graph import infer_shapes, name_nodes
from engines.openvino import build_openvino, open_openvino
from engines.ort import build_ort, open_ort
from engines.qdq import dequantize_array, qdq_edges, quantize_array
from engines.tensorrt.build import build_rtx

ALL = KeepFloat(head=False)
DYNAMIC = Dynamic(kind="dynamic", keep_float=ALL)
STAGES = {
    "asymmetric": Ptq(kind="ptq", activations="asymmetric", keep_float=ALL),
    "per tensor": Ptq(kind="ptq", weights="per_tensor", keep_float=ALL),
    "fp8": Ptq(kind="ptq", format="fp8", keep_float=ALL),
    "dynamic": DYNAMIC,
    "int8 weights": WeightOnly(kind="weight_only", keep_float=ALL),
    "int4 weights": WeightOnly(kind="weight_only", format="int4", keep_float=ALL),
    "fp16": Cast(kind="cast"),
    "bf16": Cast(kind="cast", format="bf16"),
}
# Relative to the largest output: what each format may lose on a network of random weights.
LOSS = {"fp8": 0.12, "int4 weights": 0.3, "fp16": 0.002, "bf16": 0.02}


def run(model, batch):
    return open_model(model).run(None, dict(batch))[0]


@pytest.fixture(scope="module")
def artifacts(small_net, small_batches):
    """The small network in every format, and in INT8 with FP16 and BF16 around it."""
    made = {name: apply(stage, Artifact(small_net), small_batches) for name, stage in STAGES.items()}
    int8 = quantize(Artifact(small_net), Ptq(kind="ptq", keep_float=KeepFloat()), small_batches)
    return made | {f"int8 and {kind}": cast(int8, Cast(kind="cast", format=kind)) for kind in ("fp16", "bf16")}


NAMES = [*STAGES, "int8 and fp16", "int8 and bf16"]


def save(artifact, folder):
    path = folder / "net.onnx"
    path.write_bytes(artifact.model.SerializeToString())
    return path


@pytest.mark.parametrize("name", NAMES)
def test_each_format_runs_and_keeps_the_numbers_on_both_cpu_engines(
    name, artifacts, small_net, small_batches, tmp_path
):
    path = save(artifacts[name], tmp_path)
    engine = OpenVinoEngine(backend="openvino")
    build_ort(path, tmp_path)
    build_openvino(path, tmp_path, engine)

    with open_ort(tmp_path / "model.onnx") as ort, open_openvino(tmp_path, engine) as openvino:
        for batch in small_batches:
            exact, reference, found = run(small_net, batch), ort.run(batch)["y"], openvino.run(batch)["y"]
            size = np.abs(exact).max()
            assert 0 < np.abs(reference - exact).max() < LOSS.get(name, 0.06) * size
            # FP16 and BF16 are computed in FP32 there; a value on a tie may fall to the other side.
            assert np.abs(found - reference).max() < max(0.02, LOSS.get(name, 0)) * size
            assert np.abs(found - reference).mean() < 0.004 * size


@pytest.mark.rtx
@pytest.mark.parametrize("name", [name for name in NAMES if name not in {"asymmetric", "dynamic"}])
def test_tensorrt_compiles_what_was_planned(name, artifacts, tmp_path):
    (tmp_path / "engine").mkdir()
    settings = RtxEngine(backend="trt_rtx", compute_capabilities=("sm89",))

    built = build_rtx(save(artifacts[name], tmp_path), tmp_path / "engine", settings)

    assert built.precisions
    assert compare(artifacts[name].layers, built.precisions) == ()


@pytest.mark.parametrize("name", NAMES)
def test_each_stage_says_what_it_planned_and_keeps_the_float_network(name, artifacts):
    artifact = artifacts[name]

    assert [layer.name for layer in artifact.layers] == ["Conv_0", "Conv_2", "Conv_4"]
    planned = {layer.precision for layer in artifact.layers}
    expected = {"asymmetric": {"int8"}, "per tensor": {"int8"}, "dynamic": {"int8 dynamic"}}
    expected |= {"int8 and fp16": {"int8", "fp16"}, "int8 and bf16": {"int8", "bf16"}}
    assert planned == expected.get(name, {name})
    assert all(layer.reason for layer in artifact.layers)
    assert {t.data_type for t in artifact.reference.graph.initializer} == {TensorProto.FLOAT}
    assert artifact.log
    onnx.checker.check_model(artifact.model, full_check=True)


# --- dynamic


def test_dynamic_quantization_puts_each_input_on_its_own_256_levels(small_net, small_batches):
    artifact = quantize_dynamic(Artifact(small_net), DYNAMIC)

    kinds = Counter(node.op_type for node in artifact.model.graph.node)
    assert kinds["DynamicQuantizeLinear"] == 3
    assert kinds["QuantizeLinear"] == 0
    assert set(artifact.qparams) == {"wa", "wb", "wy"}
    assert {params.axis for params in artifact.qparams.values()} == {0}
    large = {"x": small_batches[0]["x"] * np.float32(50)}
    exact = run(small_net, large)
    assert np.abs(run(artifact.model, large) - exact).max() < 0.06 * np.abs(exact).max()


def test_transposed_convolutions_and_gemms_are_quantized_dynamically():
    text = """<ir_version: 8, opset_import: ["" : 17]> n (float[1,4,5,5] x) => (float[1,7] y) {
        a = ConvTranspose<strides=[2,2]>(x, w) f = Flatten(a) y = Gemm<transB=1>(f, v, b) }"""
    model = with_weights(text, {"w": (4, 3, 2, 2), "v": (7, 300), "b": (7,)})
    x = {"x": np.random.default_rng(0).standard_normal((1, 4, 5, 5)).astype(np.float32)}

    artifact = quantize_dynamic(Artifact(model), DYNAMIC)

    assert {layer.precision for layer in artifact.layers} == {"int8 dynamic"}
    exact = run(model, x)
    assert 0 < np.abs(run(artifact.model, x) - exact).max() < 0.03 * np.abs(exact).max()


def with_weights(text, shapes):
    model, rng = parser.parse_model(text), np.random.default_rng(1)
    for name, shape in shapes.items():
        model.graph.initializer.append(numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name))
    return infer_shapes(name_nodes(model))


# --- weight-only


def matrices(inputs=12):
    text = f"""<ir_version: 8, opset_import: ["" : 17]> n (float[1,3,{inputs}] x) => (float[1,3,6] y) {{
        a = MatMul(x, w) r = Relu(a) y = MatMul(r, v) }}"""
    return with_weights(text, {"w": (inputs, 8), "v": (8, 6)})


def test_weights_alone_change(small_net, small_batches):
    artifact = quantize_weights(Artifact(small_net), STAGES["int4 weights"])

    replaced = onnx.ModelProto.FromString(small_net.SerializeToString())
    for tensor in replaced.graph.initializer:
        if tensor.name in artifact.qparams:
            params, values = artifact.qparams[tensor.name], numpy_helper.to_array(tensor)
            near = dequantize_array(quantize_array(values, params), params)
            tensor.CopyFrom(numpy_helper.from_array(near, tensor.name))
    assert np.array_equal(run(artifact.model, small_batches[0]), run(replaced, small_batches[0]))
    assert "QuantizeLinear" not in {node.op_type for node in artifact.model.graph.node}


def test_int4_takes_half_the_room_of_int8():
    sizes = {}
    for kind in ("int8", "int4"):
        stage = WeightOnly(kind="weight_only", format=kind, keep_float=ALL)
        stored = quantize_weights(Artifact(matrices(512)), stage).model.graph.initializer
        (weight,) = (tensor for tensor in stored if tensor.name == "w_quantized")
        sizes[kind] = len(weight.raw_data)

    assert sizes == {"int8": 4096, "int4": 2048}


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_blocks_follow_the_inputs_of_a_matrix_product(kind, tmp_path):
    stage = WeightOnly(kind="weight_only", format=kind, block_size=4, keep_float=ALL)
    model = matrices()
    x = {"x": np.random.default_rng(2).standard_normal((1, 3, 12)).astype(np.float32)}

    artifact = quantize_weights(Artifact(model), stage)

    assert {name: (p.axis, p.block_size, len(p.scale)) for name, p in artifact.qparams.items()} == {
        "w": (0, 4, 24),
        "v": (0, 4, 12),
    }
    engine = OpenVinoEngine(backend="openvino")
    build_openvino(save(artifact, tmp_path), tmp_path, engine)
    with open_openvino(tmp_path, engine) as openvino:
        assert np.allclose(openvino.run(x)["y"], run(artifact.model, x), rtol=1e-3, atol=1e-3)
    whole = quantize_weights(Artifact(model), stage.model_copy(update={"block_size": None}))
    errors = [np.square(run(a.model, x) - run(model, x)).sum() for a in (artifact, whole)]
    assert errors[0] < errors[1]


def test_blocks_that_do_not_divide_the_inputs_are_refused_with_the_layer():
    stage = WeightOnly(kind="weight_only", format="int4", block_size=5, keep_float=ALL)

    with pytest.raises(
        RecipeError, match="divisor of the 12 inputs of layer 'MatMul_0', got 5; choose another, or name"
    ):
        quantize_weights(Artifact(matrices()), stage)
    quantize_weights(Artifact(matrices(15)), stage.model_copy(update={"keep_float": KeepFloat(layers=("MatMul_2",))}))


def test_an_odd_number_of_weights_is_stored_in_int8_where_int4_is_asked_for():
    text = """<ir_version: 8, opset_import: ["" : 17]> n (float[1,3,5,5] x) => (float[1,2,3,3] y) {
        a = Conv(x, w) y = Conv(a, v) }"""
    model = with_weights(text, {"w": (5, 3, 1, 1), "v": (2, 5, 3, 3)})

    artifact = quantize_weights(Artifact(model), STAGES["int4 weights"])

    assert {name: params.dtype for name, params in artifact.qparams.items()} == {"w": "int8", "v": "int4"}
    assert [(layer.precision, layer.reason) for layer in artifact.layers] == [
        ("int8 weights", "only its weight is quantized: an odd number of values, INT4 goes in pairs"),
        ("int4 weights", "only its weight is quantized"),
    ]


def test_blocks_without_a_matrix_product_are_refused(small_net):
    with pytest.raises(RecipeError, match="expected a matrix product to cut into blocks of 4, got a network without"):
        quantize_weights(Artifact(small_net), WeightOnly(kind="weight_only", block_size=4))


def test_layers_that_are_kept_stay_as_they_are(small_net):
    stage = WeightOnly(kind="weight_only", keep_float=KeepFloat(head=True, layers=("Conv_0",)))

    artifact = quantize_weights(Artifact(small_net), stage)

    assert {layer.name: layer.precision for layer in artifact.layers} == {
        "Conv_0": "float",
        "Conv_2": "int8 weights",
        "Conv_4": "float",
    }
    assert set(artifact.qparams) == {"wb"}
    assert "weight_only: 1 of 3 layers in INT8 weights" in artifact.log[-1]


# --- cast


def test_a_cast_names_the_nodes_that_stay_fp32(small_net):
    artifact = cast(Artifact(small_net), Cast(kind="cast", keep_float=("Conv_2", "a")))

    assert {layer.name: (layer.precision, layer.reason) for layer in artifact.layers} == {
        "Conv_0": ("float", "FP32: pattern 'a'"),
        "Conv_2": ("float", "FP32: pattern 'Conv_2'"),
        "Conv_4": ("fp16", "not quantized"),
    }
    assert "pattern 'Conv_2' (Conv_2)" in artifact.log[-1]


def test_a_pattern_that_matches_nothing_is_refused(small_net):
    with pytest.raises(RecipeError, match=r"expected patterns that match a node's .* got 'Convo_2'; .*Conv_2"):
        cast(Artifact(small_net), Cast(kind="cast", keep_float=("Convo_2",)))


def test_the_parameters_are_those_that_the_cast_network_has(small_artifact):
    artifact = cast(small_artifact, Cast(kind="cast"))

    scales = {name: np.float32(params.scale) for name, params in small_artifact.qparams.items()}
    assert {name: params.scale for name, params in artifact.qparams.items()} == {
        name: tuple(scale.astype(np.float16).astype(float).tolist()) for name, scale in scales.items()
    }
    assert {params for _, params in qdq_edges(artifact.model)[1].items()} == set(artifact.qparams.values())
    assert artifact.reference is small_artifact.reference


def test_batch_norms_are_folded_before_a_float_network_is_cast():
    text = """<ir_version: 8, opset_import: ["" : 17]> n (float[1,4,5,5] x) => (float[1,3,5,5] y) {
        a = Conv(x, w) n = BatchNormalization(a, g, b, m, v) y = Relu(n) }"""
    model = with_weights(text, {"w": (3, 4, 1, 1), "g": (3,), "b": (3,), "m": (3,), "v": (3,)})
    (variance,) = (t for t in model.graph.initializer if t.name == "v")
    variance.CopyFrom(numpy_helper.from_array(np.ones(3, np.float32), "v"))

    artifact = cast(Artifact(model), Cast(kind="cast"))

    assert [n.op_type for n in artifact.model.graph.node if n.op_type != "Cast"] == ["Conv", "Relu"]
    assert [n.op_type for n in artifact.reference.graph.node] == ["Conv", "Relu"]


def test_transposed_convolutions_stay_fp32_beside_bf16():
    text = """<ir_version: 8, opset_import: ["" : 17]> n (float[1,4,5,5] x) => (float[1,3,10,10] y) {
        a = ConvTranspose<strides=[2,2]>(x, w) r = Relu(a) y = Conv(r, v) }"""
    model = with_weights(text, {"w": (4, 3, 2, 2), "v": (3, 3, 1, 1)})

    bf16, fp16 = (cast(Artifact(model), Cast(kind="cast", format=kind)) for kind in ("bf16", "fp16"))

    assert [layer.precision for layer in bf16.layers] == ["float", "bf16"]
    assert bf16.layers[0].reason == "FP32: TensorRT has no transposed convolution in BF16"
    assert [layer.precision for layer in fp16.layers] == ["fp16", "fp16"]


def test_hard_swish_stays_fp32_beside_bf16():
    text = """<ir_version: 8, opset_import: ["" : 17]> n (float[1,4,5,5] x) => (float[1,3,5,5] y) {
        a = Conv(x, w) h = HardSwish(a) y = Conv(h, v) }"""
    model = with_weights(text, {"w": (3, 4, 1, 1), "v": (3, 3, 1, 1)})

    artifact = cast(Artifact(model), Cast(kind="cast", format="bf16"))

    assert [layer.precision for layer in artifact.layers] == ["bf16", "bf16"]
    assert "1 x TensorRT has no HardSwish in BF16" in artifact.log[0]


@pytest.mark.parametrize("name", ["dynamic", "int8 weights", "int4 weights"])
def test_what_a_quantizing_stage_left_float_can_be_cast(name, artifacts, small_net, small_batches, tmp_path):
    artifact = cast(artifacts[name], Cast(kind="cast"))

    build_ort(save(artifact, tmp_path), tmp_path)

    with open_ort(tmp_path / "model.onnx") as session:
        found = session.run(small_batches[0])["y"]
    before = run(artifacts[name].model, small_batches[0])
    assert np.abs(found - before).max() < 0.05 * np.abs(before).max()
    assert [layer.precision for layer in artifact.layers] == [layer.precision for layer in artifacts[name].layers]


def test_equal_inputs_give_equal_bytes_and_nothing_given_is_changed(small_net, small_batches):
    before = small_net.SerializeToString()

    for stage in STAGES.values():
        first, second = (apply(stage, Artifact(small_net), small_batches).model for _ in range(2))
        assert first.SerializeToString() == second.SerializeToString()

    assert small_net.SerializeToString() == before


def test_fp8_holds_448_steps_of_its_scale():
    params = activation_params(TensorRange((-448.0,), (448.0,)), STAGES["fp8"])
    model = helper.make_model(helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [], []))

    assert params.scale == (1.0,)
    assert quantize_array(np.float32([447, 448, 500]), params).astype(int).tolist() == [448, 448, 448]
    assert qdq_edges(model) == ((), {})
