"""Small samples in the form of each version of TensorRT, written by hand."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avcompress.spec import EngineError
from engines.layer_map import BuilderLayer, layer_precisions, parse_inspector

INT8 = "Thirty-two wide channel vectorized row major Int8 format"
FP32 = "Row major linear FP32"


def tensor(told, shape=(1, 32, 8, 8), key="Format/Datatype"):
    return {"Name": "t", "Location": "Device", "Dimensions": list(shape), key: told}


def convolution(name, told=INT8, weight="Int8", **facts):
    return {
        "Name": name,
        "LayerType": "CaskConvolution",
        "Inputs": [tensor(told)],
        "Outputs": [tensor(INT8)],
        "ParameterType": "Convolution",
        "Kernel": [3, 3],
        "Weights": {"Type": weight, "Count": 864},
        "Bias": {"Type": "Float", "Count": 32},
        "TacticName": "ampere_int8x4_icudnn_int8x4_128x32_relu_interior_c32_nn_v1",
        **facts,
    }


REFORMAT = {
    "Name": "QuantizeLinear_2",
    "LayerType": "Reformat",
    "Inputs": [tensor(FP32, (1, 3, 8, 8))],
    "Outputs": [tensor("Four wide channel vectorized row major Int8 format", (1, 3, 8, 8))],
    "ParameterType": "Reformat",
    "Origin": "QDQ",
    "TacticValue": "0x0",
}


def parse(layers, weighted=(), **facts):
    return parse_inspector(json.dumps({"Layers": layers, "Bindings": ["x", "y"], **facts}), weighted)


def precisions(layers, *weighted):
    return layer_precisions(parse(layers, weighted), weighted)


# --- TensorRT 8.2 to 8.5: no metadata


def test_a_layer_of_8_5_is_named_after_the_nodes_in_it():
    quantized, found = parse([REFORMAT, convolution("w + QuantizeLinear_7 + Conv_9 + PWN(PWN(Sigmoid_3), Mul_4)")])

    assert (quantized.origin, quantized.inputs, quantized.outputs) == ("QDQ", ("Float",), ("Int8",))
    assert quantized.moved_bytes == 3 * 64 * (4 + 1)
    assert found.nodes == ("w", "QuantizeLinear_7", "Conv_9", "Sigmoid_3", "Mul_4")
    assert (found.inputs, found.constants) == (("Int8",), ("Int8", "Float"))
    assert found.moved_bytes == 2 * 32 * 64 + 864 + 4 * 32


def test_engines_of_8_5_are_judged_by_these_names():
    layers = [
        convolution("w1 + QuantizeLinear_7 + Conv_9 + Relu_1"),
        convolution("Conv_10", FP32, "Float"),
        convolution("Conv_11", "Channel major FP16 format where channel % 8 == 0", "Half"),
        convolution("Conv_12", INT8, "Float"),
        convolution("Conv_13 [profile 1]"),
    ]

    assert precisions(layers, "Conv_9", "Conv_10", "Conv_11", "Conv_12", "Conv_13", "Conv_14") == {
        "Conv_9": "int8",
        "Conv_10": "fp32",
        "Conv_11": "fp16",
        "Conv_12": "unknown",
        "Conv_13": "int8",
        "Conv_14": "unknown",
    }


@pytest.mark.parametrize(
    "layer",
    [
        convolution("Conv_9 + Relu_1 || Conv_10 + Relu_2"),
        convolution("Conv_9 + Conv_10"),
        {**convolution("{ForeignNode[Conv_9...Conv_10]}"), "LayerType": "Myelin"},
        {**convolution("{ForeignNode[Conv_9...Conv_10]}"), "LayerType": "DLA"},
        convolution("xConv_9 + Conv_10x"),
    ],
    ids=["horizontal", "two nodes", "region", "dla", "other nodes"],
)
def test_what_a_name_of_8_5_leaves_open_is_unknown(layer):
    assert precisions([layer], "Conv_9", "Conv_10") == {"Conv_9": "unknown", "Conv_10": "unknown"}


def test_a_node_in_two_profiles_of_two_precisions_is_unknown():
    layers = [convolution("Conv_9"), convolution("Conv_9 [profile 1]", FP32, "Float")]

    assert precisions(layers, "Conv_9") == {"Conv_9": "unknown"}


# --- TensorRT 8.6 and 10: metadata


@pytest.mark.parametrize("separator", ["\x1e", "\x1f", ""])
def test_nodes_are_those_of_the_metadata_where_there_is_any(separator):
    metadata = separator.join(f"[ONNX Layer: {name}]" for name in ("Conv_9", "Relu_1"))

    (found,) = parse([convolution("Conv_10", Metadata=metadata)], ["Conv_10"])

    assert found.nodes == ("Conv_9", "Relu_1")


def test_bare_control_characters_are_read():
    text = json.dumps({"Layers": [convolution("a", Metadata="[ONNX Layer: a]|[ONNX Layer: b]")]}).replace("|", "\x1f")

    assert parse_inspector(text, ())[0].nodes == ("a", "b")


def test_a_horizontally_fused_layer_without_its_metadata_is_unknown_in_an_engine_that_has_metadata():
    layers = [
        convolution("Conv_8", Metadata="[ONNX Layer: Conv_8]"),
        convolution("Conv_9 || Conv_10", Metadata=""),
        convolution("Conv_11", Metadata=""),
    ]

    found = precisions(layers, "Conv_8", "Conv_9", "Conv_10", "Conv_11")

    assert found == {"Conv_8": "int8", "Conv_9": "unknown", "Conv_10": "unknown", "Conv_11": "unknown"}


def test_a_horizontally_fused_layer_with_its_metadata_counts_for_all_its_nodes():
    fused = convolution("Conv_9 || Conv_10", Metadata="[ONNX Layer: Conv_9]\x1e[ONNX Layer: Conv_10]")

    assert precisions([fused], "Conv_9", "Conv_10") == {"Conv_9": "int8", "Conv_10": "int8"}


def test_layers_inside_a_region_of_10_tell_their_types_alone():
    gemm = {
        "Name": "/fc/MatMul_myl0_4",
        "LayerType": "gemm",
        "Inputs": [tensor("Int8", (1, 40, 64))],
        "Outputs": [tensor("Half", (1, 40, 8))],
        "TacticName": "sm80_xmma_gemm_i8f16_i8i32_f32_tn_n_tilesize64x64x64",
        "StreamId": 0,
        "Metadata": "[ONNX Layer: /fc/MatMul]",
    }

    assert parse([gemm]) == (
        BuilderLayer(
            "/fc/MatMul_myl0_4",
            "gemm",
            ("Int8",),
            (),
            ("Half",),
            ("/fc/MatMul",),
            tactic="sm80_xmma_gemm_i8f16_i8i32_f32_tn_n_tilesize64x64x64",
            moved_bytes=40 * 64 + 2 * 40 * 8,
        ),
    )
    assert precisions([gemm], "/fc/MatMul") == {"/fc/MatMul": "int8"}
    del gemm["TacticName"]
    assert precisions([gemm], "/fc/MatMul") == {"/fc/MatMul": "unknown"}


@pytest.mark.parametrize("told", ["N/A due to dynamic shapes", "Unknown format", "", None, "Row major FP32 or Int8"])
def test_a_type_that_is_not_told_is_no_type(told):
    assert precisions([convolution("Conv_9", told)], "Conv_9") == {"Conv_9": "unknown"}


# --- TensorRT 11: format and type apart


@pytest.mark.parametrize("key", ["Datatype", "DataType"])
def test_format_and_type_of_11_are_two_fields(key):
    layer = {
        "Name": "Conv_9_myl0_2",
        "LayerType": "correlation",
        "Inputs": [tensor("Int8", key=key) | {"Format": "(NHWC) Channel major format"}],
        "Constants": [tensor("Int8", (32, 32, 3, 3), key), tensor("Float", (1, 32, 1, 1), key)],
        "Outputs": [tensor("Float", key=key)],
        "TacticName": "__myelin_CASK_STUB",
        "Metadata": "[ONNX Layer: Conv_9]",
    }
    facts = {"I/O Tensors": [{"Name": "x", "IOMode": "Input", "DataType": "Float"}]}

    (found,) = parse_inspector(json.dumps({"Layers": [layer], **facts}), ["Conv_9"])

    assert (found.inputs, found.constants, found.outputs) == (("Int8",), ("Int8", "Float"), ("Float",))
    assert found.moved_bytes == 32 * 64 * (1 + 4) + 9 * 32 * 32 + 4 * 32
    assert layer_precisions([found], ["Conv_9"]) == {"Conv_9": "int8"}


# --- what is refused


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "got no JSON"),
        ('{"Layers": [', "got no JSON"),
        ("{}", "without a list of layers"),
        ("[]", "got no layer"),
        ('{"Layers": 3}', "without a list of layers"),
        ('{"Layers": [["a"]]}', "another form"),
        ('{"Layers": ["Conv_9 + Relu_1", "y"], "Bindings": ["x"]}', "profiling verbosity detailed"),
    ],
)
def test_what_is_no_layer_map_in_detail_is_one_line(text, part):
    with pytest.raises(EngineError, match=part) as caught:
        parse_inspector(text, ["Conv_9"])

    assert "\n" not in str(caught.value)


TEXT = st.text(st.characters(codec="ascii"), max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
KEYS = ("Name", "LayerType", "Inputs", "Outputs", "Constants", "Weights", "Bias", "TacticName", "Metadata")


@given(st.lists(st.dictionaries(st.sampled_from(KEYS), JSON), min_size=1, max_size=3))
def test_layers_of_any_content_are_read_or_refused_and_prove_nothing(layers):
    text = json.dumps({"Layers": [{"LayerType": "CaskConvolution", **layer} for layer in layers]})

    found = parse_inspector(text, ["Conv_9"])

    assert layer_precisions(found, ["Conv_9"]) == {"Conv_9": "unknown"}
