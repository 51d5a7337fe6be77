import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avcompress.spec import LayerPlan
from engines.layer_map import (
    BuilderLayer,
    Mismatch,
    as_planned,
    compare,
    layer_precisions,
    layers_json,
    parse_layers,
)

TENSOR = (
    "{{ Name: t, Dimensions: [1,16,8,8], Strides: [1024,1,128,16], StrideOrder: [3,0,2,1], Datatype: {}, "
    "Format: (NHWC) Channel major format }}"
)


def line(name, kind, inputs, constants, outputs, nodes):
    tensors = [", ".join(f" {TENSOR.format(t)}" for t in types) for types in (inputs, constants, outputs)]
    metadata = "\x1f".join(f"[ONNX Layer: {node}]" for node in nodes)
    return (
        f"Name: {name}, LayerType: {kind}, Inputs: [{tensors[0]}], Constants: [{tensors[1]}], "
        f"Outputs: [{tensors[2]}], TacticName: __myl_x, StreamId: 0, EventId: 3, Metadata: {metadata}"
    )


def layer(name, kind, inputs, constants, *nodes):
    return BuilderLayer(name, kind, inputs, constants, ("Float",), nodes)


def test_a_line_of_the_log_becomes_a_layer():
    log = "\n".join(
        [
            "[VERBOSE] something else",
            "[VERBOSE] Layers:",
            "Name: entry^bb^wait^5_myl0_1, LayerType: wait, Inputs: [], Constants: [], Outputs: [], TacticName: , "
            "StreamId: 5, EventId: 37, Metadata: ",
            line("c1_myl0_1", "correlation", ["Int8"], ["Int8", "Float"], ["Float"], ["/model.0/c[1]", "x, y"]),
            "",
            "Engine Metadata:",
        ]
    )

    assert parse_layers(log) == (
        BuilderLayer("entry^bb^wait^5_myl0_1", "wait", (), (), (), ()),
        BuilderLayer("c1_myl0_1", "correlation", ("Int8",), ("Int8", "Float"), ("Float",), ("/model.0/c[1]", "x, y")),
    )


@given(st.lists(st.text(st.characters(codec="ascii", categories=("L", "N", "P", "S")), min_size=1), max_size=4))
def test_any_node_names_are_read_back(nodes):
    (parsed,) = parse_layers(line("n", "gemm", ["Int8"], ["Int8"], ["Float"], nodes))

    assert parsed.nodes == tuple(nodes)


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ([layer("a", "correlation", ("Int8",), ("Int8", "Float"), "a")], "int8"),
        ([layer("a", "correlation", ("Float", "Float"), ("Float",), "a")], "fp32"),
        ([layer("a", "gemm", ("Half",), ("Half",), "a")], "fp16"),
        ([layer("a", "gemm", ("BFloat16",), ("BFloat16",), "a")], "bf16"),
        ([layer("a", "correlation", ("FP8",), ("FP8",), "a")], "fp8"),
        ([layer("a", "deconv", ("Float", "Float"), ("Float",), "a")], "fp32"),
        ([layer("__myl_CorrSilu_myl0_1", "runtime_fusion", ("Half",), ("Half",), "a", "silu")], "fp16"),
        ([layer("__myl_FcAddRelu_myl0_1", "runtime_fusion", ("Float",), ("Float",), "a")], "fp32"),
        ([layer("__myl_MulSum_myl0_1", "kgen", ("Float",), ("Float",), "a")], "fp32"),
        ([layer("__myl_MulSum_myl0_1", "kgen", ("Int8",), ("Int8",), "a")], "unknown"),
        ([layer("__myl_MulAddSilu_myl0_1", "kgen", ("Float",), ("Float",), "a")], "unknown"),
        ([layer("__myl_MulAddSilu_myl0_1", "runtime_fusion", ("Float",), ("Float",), "a")], "unknown"),
        ([layer("a", "correlation", ("Int8",), ("Float",), "a")], "unknown"),
        ([layer("a", "correlation", ("Int32",), ("Int32",), "a")], "unknown"),
        ([layer("a", "correlation", (), ("Int8",), "a")], "unknown"),
        ([layer("a", "correlation", ("Int8",), ("Int8",), "b")], "unknown"),
        ([layer("a", "gemm", ("Int8",), ("Int8",), "a"), layer("b", "gemm", ("Half",), ("Half",), "a")], "unknown"),
        ([], "unknown"),
    ],
)
def test_a_node_computes_in_the_type_its_product_reads(layers, expected):
    assert layer_precisions(layers, ["a"]) == {"a": expected}


def test_a_fused_layer_counts_for_every_node_it_names():
    fused = layer("v+k", "gemm", ("Int8",), ("Int8",), "v", "x.DQ", "k")

    assert layer_precisions([fused], ["k", "q", "v"]) == {"k": "int8", "q": "unknown", "v": "int8"}


def test_products_without_names_count_for_the_nodes_that_none_names():
    named, other = layer("n", "correlation", ("Half",), ("Half",), "a"), layer("m", "gemm", ("Int8",), ("Int8",))
    nameless = [layer(f"__myl_FcAddSilu_myl0_{i}", "runtime_fusion", ("Half",), ("Half",)) for i in range(2)]

    assert layer_precisions([named, *nameless], ["a", "b", "c"]) == dict.fromkeys("abc", "fp16")
    assert layer_precisions([named, *nameless], ["a", "b"])["b"] == "unknown"  # one too many
    assert layer_precisions([named, nameless[0]], ["a", "b", "c"])["b"] == "unknown"  # one too few
    assert layer_precisions([named, nameless[0], other], ["a", "b", "c"])["b"] == "unknown"  # which is which?


def plan(name, precision):
    return LayerPlan(name, "Conv", precision, "because", 1)


@pytest.mark.parametrize("got", ["fp32", "fp16", "bf16"])
def test_a_float_plan_is_kept_by_every_float_type(got):
    assert compare([plan("a", "float"), plan("b", "int8")], {"a": got, "b": "int8"}) == ()


@pytest.mark.parametrize(
    ("precision", "got"),
    [
        *((kind, kind) for kind in ("int8", "fp8", "fp16", "bf16")),
        *((f"{kind} weights", got) for kind in ("int8", "int4") for got in ("fp32", "fp16", "bf16")),
        *(("int8 dynamic", got) for got in ("int8", "fp32", "bf16")),
        ("float", "float"),
    ],
)
def test_each_precision_is_kept_by_the_type_that_it_computes_in(precision, got):
    assert as_planned(precision, got)
    assert compare([plan("a", precision)], {"a": got}) == ()


@pytest.mark.parametrize(
    ("precision", "got", "message"),
    [
        ("int8", "fp32", "a (Conv): planned int8, but it runs in fp32"),
        ("float", "int8", "a (Conv): planned float, but it runs in int8"),
        ("float", "fp8", "a (Conv): planned float, but it runs in fp8"),
        ("fp8", "fp32", "a (Conv): planned fp8, but it runs in fp32"),
        ("fp8", "int8", "a (Conv): planned fp8, but it runs in int8"),
        ("fp16", "fp32", "a (Conv): planned fp16, but it runs in fp32"),
        ("bf16", "fp16", "a (Conv): planned bf16, but it runs in fp16"),
        ("int8 weights", "int8", "a (Conv): planned int8 weights, but it runs in int8"),
        ("int4 weights", "unknown", "a (Conv): planned int4 weights, and the engine does not say what it runs in"),
        ("int8 dynamic", "fp8", "a (Conv): planned int8 dynamic, but it runs in fp8"),
        ("int8", "unknown", "a (Conv): planned int8, and the engine does not say what it runs in"),
        ("float", "unknown", "a (Conv): planned float, and the engine does not say what it runs in"),
    ],
)
def test_what_runs_otherwise_than_planned_is_a_mismatch(precision, got, message):
    assert compare([plan("a", precision)], {"a": got}) == (Mismatch("a", precision, got, message),)


def test_a_planned_layer_that_the_engine_does_not_list_never_passes():
    (mismatch,) = compare([plan("a", "int8")], {})

    assert mismatch.got == "unknown"


def test_the_layer_map_is_written_as_json():
    content = json.loads(layers_json([layer("n", "gemm", ("Int8",), ("Int8",), "a")], {"a": "int8"}))

    assert content["precisions"] == {"a": "int8"}
    assert content["layers"][0]["nodes"] == ["a"]
