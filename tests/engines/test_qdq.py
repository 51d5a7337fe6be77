"""engines.qdq: every format against ONNX Runtime with graph optimizations off."""

import ml_dtypes
import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper, parser

from avcompress.spec import ModelError, QuantParams
from engines.onnx_graph import check, infer_shapes, name_nodes
from engines.opset import opset_of
from engines.qdq import (
    LIMITS,
    dequantize_array,
    insert_dynamic_qdq,
    insert_qdq,
    qdq_edges,
    qdq_sites,
    quantize_array,
    without_qdq,
)

RNG = np.random.default_rng(0)
TYPES = {"int8": np.int8, "uint8": np.uint8, "int4": ml_dtypes.int4, "float8e4m3fn": ml_dtypes.float8_e4m3fn}


def network(body, constants, shape=(1, 4, 6, 6), outputs=("y",), opset=17):
    """A model from ONNX text: `body` computes the outputs from x and the named constants."""
    header = f'<ir_version: 8, opset_import: ["" : {opset}]>'
    dims = ",".join(map(str, shape))
    results = ", ".join(f"float[] {name}" for name in outputs)
    model = parser.parse_model(f"{header} net (float[{dims}] x) => ({results}) {{ {body} }}")
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    for name, value in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return check(name_nodes(infer_shapes(model)))


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def run(model, x, outputs=None):
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(model.SerializeToString(), options).run(outputs, {"x": x})


def kinds(model):
    return [node.op_type for node in model.graph.node]


# --- Q/DQ


def per_tensor(scale):
    return QuantParams((scale,), (0,))


def per_channel(weight, axis):
    amax = np.abs(np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)).max(1)
    return QuantParams(tuple((amax / 127).tolist()), (0,) * len(amax), "int8", axis)


def fake_quantized(values, params):
    shape = [-1 if i == params.axis else 1 for i in range(values.ndim)]
    return quantize_array(values, params).astype(np.float32) * np.float32(params.scale).reshape(shape)


def test_ties_round_to_even_and_both_ends_saturate():
    values = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 1000, -1000], np.float32)

    assert quantize_array(values, per_tensor(1.0)).tolist() == [0, 2, 2, 0, -2, 127, -128]


@given(
    values=st.lists(st.floats(-300, 300, width=32), min_size=1, max_size=50),
    scale=st.sampled_from([1.0, 0.5, 0.1, 0.0078125, 2.3]),
    zero_point=st.sampled_from([0, 1, -7]),
)
@settings(deadline=None, max_examples=60)
def test_quantizing_agrees_with_onnx_runtime_bit_for_bit(values, scale, zero_point):
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> n (float[n] x) => (int8[n] y) '
        f"<float s = {{{scale}}}, int8 z = {{{zero_point}}}> {{ y = QuantizeLinear(x, s, z) }}"
    )
    x = np.array([*values, *(np.arange(-10, 10) + 0.5) * scale], np.float32)

    assert np.array_equal(run(model, x)[0], quantize_array(x, QuantParams((scale,), (zero_point,))))


@pytest.mark.parametrize(
    ("body", "weight", "axis"),
    [
        ("y = Conv<pads=[1,1,1,1]>(x, w)", (5, 4, 3, 3), 0),
        ("y = Conv<dilations=[2,2]>(x, w)", (5, 4, 3, 3), 0),
        ("y = Conv<group=4>(x, w)", (8, 1, 3, 3), 0),
        ("y = ConvTranspose(x, w)", (4, 5, 2, 2), 1),
        ("y = MatMul(x, w)", (6, 7), 1),
    ],
)
def test_a_quantized_layer_equals_the_float_layer_on_fake_quantized_operands(body, weight, axis):
    w, x = normal(*weight), normal(1, 4, 6, 6)
    qparams = {"x": per_tensor(0.02), "w": per_channel(w, axis)}
    model = network(body, {"w": w})

    quantized = insert_qdq(model, [(model.graph.node[0].name, 0), (model.graph.node[0].name, 1)], qparams)

    expected = run(network(body, {"w": fake_quantized(w, qparams["w"])}), fake_quantized(x, qparams["x"]))[0]
    assert np.allclose(run(quantized, x)[0], expected, atol=1e-5)
    assert kinds(quantized).count("QuantizeLinear") == 1  # the weight is stored as int8
    assert kinds(quantized).count("DequantizeLinear") == 2


@pytest.mark.parametrize(("trans", "shape", "axis"), [(1, (7, 144), 0), (0, (144, 7), 1)])
def test_a_quantized_gemm_equals_the_float_one_on_fake_quantized_operands(trans, shape, axis):
    w, x = normal(*shape), normal(1, 4, 6, 6)
    body = f"f = Flatten(x) y = Gemm<transB={trans}>(f, w)"
    qparams = {"f": per_tensor(0.02), "w": per_channel(w, axis)}

    quantized = insert_qdq(network(body, {"w": w}), [("Gemm_1", 0), ("Gemm_1", 1)], qparams)

    expected = run(network(body, {"w": fake_quantized(w, qparams["w"])}), fake_quantized(x, qparams["f"]))[0]
    assert np.allclose(run(quantized, x)[0], expected, atol=1e-4)


def test_one_pair_serves_all_quantized_uses_and_the_others_stay_float():
    body = "a = Relu(x) b = Conv(a, w) c = Conv(a, w) d = Add(b, c) y = Add(d, a)"
    w, x = normal(4, 4, 1, 1), normal(1, 4, 6, 6)
    model = network(body, {"w": w}, outputs=("y", "a"))
    edges = [("Conv_1", 0), ("Conv_1", 1), ("Conv_2", 0), ("Conv_2", 1)]
    qparams = {"a": per_tensor(0.3), "w": per_channel(w, 0)}

    quantized = insert_qdq(model, edges, qparams)

    assert kinds(quantized) == ["Relu", "QuantizeLinear", *["DequantizeLinear"] * 2, "Conv", "Conv", "Add", "Add"]
    y, a = run(quantized, x)
    assert np.array_equal(a, np.maximum(x, 0))
    qw, qa = fake_quantized(w, qparams["w"])[:, :, 0, 0], fake_quantized(a, qparams["a"])
    assert np.allclose(y, 2 * np.einsum("oc,nchw->nohw", qw, qa) + a, atol=1e-5)


def test_a_weight_that_a_float_layer_shares_stays_float_there():
    w = normal(4, 4, 1, 1)
    model = network("a = Conv(x, w) y = Conv(a, w)", {"w": w})
    qparams = {"x": per_tensor(0.02), "w": per_channel(w, 0)}

    quantized = insert_qdq(model, [("Conv_0", 0), ("Conv_0", 1)], qparams)

    assert quantized.graph.node[-1].input[1] == "w"
    assert np.array_equal(numpy_helper.to_array(quantized.graph.initializer[0]), w)


def test_zero_points_are_explicit_int8_zeros_and_float_weights_are_gone():
    w = normal(4, 4, 1, 1)
    model = network("y = Conv(x, w)", {"w": w})

    quantized = insert_qdq(model, [("Conv_0", 0), ("Conv_0", 1)], {"x": per_tensor(0.02), "w": per_channel(w, 0)})

    stored = {t.name: t for t in quantized.graph.initializer}
    points = [stored[n.input[2]] for n in quantized.graph.node if n.op_type.endswith("Linear")]
    assert {t.data_type for t in points} == {TensorProto.INT8}
    assert not any(numpy_helper.to_array(t).any() for t in points)
    assert "w" not in stored
    assert quantized.opset_import[0].version == 17


def test_names_that_are_taken_are_left_alone():
    w = normal(4, 4, 1, 1)
    model = network("x_quantized = Relu(x) a = Conv(x, w) y = Add(a, x_quantized)", {"w": w})

    quantized = insert_qdq(model, [("Conv_1", 0), ("Conv_1", 1)], {"x": per_tensor(0.02), "w": per_channel(w, 0)})

    run(quantized, normal(1, 4, 6, 6))


def test_equal_inputs_give_equal_bytes():
    w = normal(4, 4, 1, 1)
    model = network("a = Conv(x, w) y = Conv(a, w)", {"w": w})
    edges = [("Conv_0", 0), ("Conv_0", 1), ("Conv_1", 0), ("Conv_1", 1)]
    qparams = {"x": per_tensor(0.02), "a": per_tensor(0.05), "w": per_channel(w, 0)}

    first, second = insert_qdq(model, edges, qparams), insert_qdq(model, edges[::-1], dict(reversed(qparams.items())))

    assert first.SerializeToString() == second.SerializeToString()


# --- every format


def qdq_oracle(values, params):
    """What ONNX Runtime makes of QuantizeLinear and DequantizeLinear, whose opset is the oldest with the format."""
    shape = () if params.axis is None else (-1,)
    attributes = {} if params.axis is None else {"axis": params.axis}
    if params.block_size:
        attributes["block_size"] = params.block_size
        shape = [-(-n // params.block_size) if i == params.axis else n for i, n in enumerate(values.shape)]
    constants = {
        "s": np.array(params.scale, np.float32).reshape(shape),
        "z": np.array(params.zero_point).astype(TYPES[params.dtype]).reshape(shape),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], **attributes),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], **attributes),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, values.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return run(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), values)[0]


@given(
    values=st.lists(st.floats(-1000, 1000, width=32), min_size=1, max_size=50),
    dtype=st.sampled_from(sorted(TYPES)),
    scale=st.floats(2**-8, 4, width=32),
    zero_point=st.integers(-128, 255),
)
@settings(deadline=None, max_examples=150)
def test_every_format_agrees_with_onnx_runtime_bit_for_bit(values, dtype, scale, zero_point):
    low, high = LIMITS[dtype]
    zero = 0 if dtype == "float8e4m3fn" else int(np.clip(zero_point, low, high))
    params = QuantParams((scale,), (zero,), dtype)
    ties = (np.arange(-600, 600) / 2).astype(np.float32) * np.float32(scale)
    x = np.array([*values, *ties], np.float32)

    assert np.array_equal(qdq_oracle(x, params), dequantize_array(quantize_array(x, params), params))


def test_fp8_rounds_ties_to_even_and_saturates_at_448():
    values = np.array([1.0625, 1.1875, 17, 19, 460, 1e6, -1e6, 2**-10, 3 * 2**-10], np.float32)

    stored = quantize_array(values, QuantParams((1.0,), (0,), "float8e4m3fn")).astype(np.float32)

    assert stored.tolist() == [1.0, 1.25, 16, 20, 448, 448, -448, 0, 2**-8]
    assert np.array_equal(stored, qdq_oracle(values, QuantParams((1.0,), (0,), "float8e4m3fn")))


@pytest.mark.parametrize("dtype", sorted(TYPES))
@pytest.mark.parametrize(("axis", "block_size"), [(0, None), (1, None), (0, 3), (1, 4), (0, 4)])
def test_channels_and_blocks_agree_with_onnx_runtime(dtype, axis, block_size):
    x = normal(9, 8)
    shape = [9, 8]
    shape[axis] = -(-shape[axis] // block_size) if block_size else shape[axis]
    count = int(np.prod(shape)) if block_size else shape[axis]
    scale = RNG.uniform(0.05, 0.3, count).astype(np.float32)
    params = QuantParams(tuple(scale.tolist()), (0,) * count, dtype, axis, block_size)

    assert np.array_equal(qdq_oracle(x, params), dequantize_array(quantize_array(x, params), params))


def params_of(dtype, weight=None, axis=None):
    amax = (
        np.abs(weight).max(tuple(i for i in range(weight.ndim) if i != axis)) if weight is not None else np.array(3.0)
    )
    scale = np.atleast_1d(amax / max(LIMITS[dtype])).astype(np.float32)
    return QuantParams(tuple(scale.tolist()), (0,) * scale.size, dtype, axis)


@pytest.mark.parametrize(("dtype", "opset"), [("int8", 17), ("uint8", 17), ("float8e4m3fn", 19), ("int4", 21)])
def test_a_layer_of_any_format_runs_and_the_opset_rises_only_where_the_format_needs_it(dtype, opset):
    w, x = normal(5, 4, 3, 3), normal(1, 4, 6, 6)
    qparams = {"x": params_of(dtype), "w": params_of(dtype, w, 0)}

    quantized = insert_qdq(network("y = Conv(x, w)", {"w": w}), [("Conv_0", 0), ("Conv_0", 1)], qparams)

    values = {
        name: dequantize_array(quantize_array(v, qparams[name]), qparams[name]) for name, v in (("x", x), ("w", w))
    }
    expected = run(network("y = Conv(x, w)", {"w": values["w"]}), values["x"])[0]
    assert np.allclose(run(quantized, x)[0], expected, atol=1e-5)
    assert opset_of(quantized) == opset


def test_a_matrix_in_blocks_runs():
    w, x = normal(8, 5), normal(1, 2, 3, 8)
    scale = np.abs(w).reshape(2, 4, 5).max(1) / 7
    params = QuantParams(tuple(scale.astype(np.float32).ravel().tolist()), (0,) * 10, "int4", 0, 4)
    model = network("y = MatMul(x, w)", {"w": w}, (1, 2, 3, 8))

    quantized = insert_qdq(model, [("MatMul_0", 1)], {"w": params})

    expected = x @ dequantize_array(quantize_array(w, params), params)
    assert np.allclose(run(quantized, x)[0], expected, atol=1e-5)
    assert opset_of(quantized) == 21


def test_blocks_on_an_activation_are_refused():
    params = QuantParams((1.0,) * 8, (0,) * 8, "int8", 1, 2)

    with pytest.raises(ValueError, match="expected blocks on a weight only"):
        insert_qdq(network("y = Conv(x, w)", {"w": normal(4, 4, 1, 1)}), [("Conv_0", 0)], {"x": params})


def test_dynamic_quantization_takes_the_range_of_the_image_at_hand():
    w = normal(5, 4, 3, 3)
    model = network("a = Conv(x, w) b = Conv(x, w) y = Add(a, b)", {"w": w})

    quantized = insert_dynamic_qdq(model, [("Conv_0", 0), ("Conv_1", 0)])

    assert kinds(quantized) == ["DynamicQuantizeLinear", "DequantizeLinear", "Conv", "Conv", "Add"]
    for size in (0.01, 100):
        x = normal(1, 4, 6, 6) * np.float32(size)
        scale = np.float32((max(x.max(), 0) - min(x.min(), 0)) / 255)
        zero = np.clip(np.rint(-min(x.min(), 0) / scale), 0, 255)
        params = QuantParams((float(scale),), (int(zero),), "uint8")
        expected = run(model, dequantize_array(quantize_array(x, params), params))[0]
        assert np.allclose(run(quantized, x)[0], expected, atol=1e-5 * size)


# --- reading and taking out


def two_layers(dtype):
    w, v = normal(4, 4, 3, 3), normal(36, 6)
    body = "a = Conv<pads=[1,1,1,1]>(x, w) b = Relu(a) c = Reshape(b, n) y = MatMul(c, v)"
    model = network(body, {"w": w, "v": v, "n": np.array([4, 36])})
    edges = (("Conv_0", 0), ("Conv_0", 1), ("MatMul_3", 0), ("MatMul_3", 1))
    qparams = {"x": params_of(dtype), "w": params_of(dtype, w, 0), "c": params_of(dtype), "v": params_of(dtype, v, 1)}
    return model, edges, qparams


@pytest.mark.parametrize("dtype", sorted(TYPES))
def test_what_was_inserted_is_read_back(dtype):
    model, edges, qparams = two_layers(dtype)

    found = qdq_edges(insert_qdq(model, edges, qparams))

    assert sorted(found[0]) == sorted(edges)
    assert found[1] == qparams


@pytest.mark.parametrize("dtype", ["int8", "int4", "float8e4m3fn"])
def test_taking_out_and_inserting_again_gives_the_same_numbers(dtype):
    quantized = insert_qdq(*two_layers(dtype))
    x = normal(1, 4, 6, 6)

    plain = without_qdq(quantized)

    assert kinds(plain) == ["Conv", "Relu", "Reshape", "MatMul"]
    assert {t.name for t in plain.graph.initializer} == {"w", "v", "n"}
    assert np.array_equal(run(insert_qdq(plain, *qdq_edges(quantized)), x)[0], run(quantized, x)[0])


def test_the_weights_of_the_float_network_are_the_dequantized_ones():
    model, edges, qparams = two_layers("int8")

    plain = without_qdq(insert_qdq(model, edges, qparams))

    (before,), (after,) = (
        [numpy_helper.to_array(t) for t in m.graph.initializer if t.name == "w"] for m in (model, plain)
    )
    assert np.array_equal(after, dequantize_array(quantize_array(before, qparams["w"]), qparams["w"]))


def by_other_tools(**constants):
    """Float weights quantized in the graph, an INT32 bias, uint8 by default, a negative axis."""
    body = """xq = QuantizeLinear(x, s) xd = DequantizeLinear(xq, s)
        wq = QuantizeLinear<axis=-4>(w, ws, wz) wd = DequantizeLinear<axis=-4>(wq, ws, wz)
        bd = DequantizeLinear(b, bs) y = Conv(xd, wd, bd)"""
    w = normal(5, 4, 3, 3)
    values = {
        "s": np.float32(0.05),
        "w": w,
        "ws": (np.abs(w).max((1, 2, 3)) / 127).astype(np.float32),
        "wz": np.zeros(5, np.int8),
        "b": np.arange(-2, 3, dtype=np.int32),
        "bs": np.float32(0.5),
    }
    return network(body, {**values, **constants})


def test_models_of_other_tools_are_read():
    model = by_other_tools()
    sites = {site.tensor: site for site in qdq_sites(model)}

    assert sites["x"].params == QuantParams((float(np.float32(0.05)),), (0,), "uint8")
    assert sites["x"].edges == (("Conv_5", 0),)
    assert sites["w"].params.axis == 0
    assert sites["w"].constant
    assert sites["w"].quantize
    assert sites["bd"].params is None
    assert sites["bd"].constant


def test_models_of_other_tools_become_float():
    model, x = by_other_tools(), np.abs(normal(1, 4, 6, 6))

    plain = without_qdq(model)

    assert kinds(plain) == ["Conv"]
    near = qdq_oracle(x, QuantParams((float(np.float32(0.05)),), (0,), "uint8"))
    assert np.allclose(run(plain, near)[0], run(model, x)[0], atol=1e-5)


def test_per_channel_int32_biases_are_dequantized_per_channel():
    scales = np.array([1, 2, 3, 4, 5], np.float32)
    body = "bd = DequantizeLinear<axis=0>(b, bs) y = Conv(x, w, bd)"
    model = network(body, {"b": np.arange(5, dtype=np.int32), "bs": scales, "w": normal(5, 4, 3, 3)})

    values = {t.name: numpy_helper.to_array(t) for t in without_qdq(model).graph.initializer}

    assert values["bd"].tolist() == [0, 2, 6, 12, 20]


def test_a_dequantized_tensor_that_is_an_output_keeps_its_name():
    body = "q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) u = Relu(y)"
    model = network(body, {"s": np.float32(0.1), "z": np.int8(0)}, outputs=("y", "u"))

    plain = without_qdq(model)

    assert kinds(plain) == ["Identity", "Relu"]
    x = normal(1, 4, 6, 6)
    assert np.array_equal(run(plain, x)[0], x)


def test_a_quantized_tensor_that_something_else_reads_stays():
    body = "q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) i = Cast<to=1>(q) y = Add(d, i)"
    model = network(body, {"s": np.float32(0.1), "z": np.int8(0)})

    assert kinds(without_qdq(model)) == ["QuantizeLinear", "Cast", "Add"]


def test_a_pair_of_two_scales_is_no_pair():
    body = "q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, t, z)"
    model = network(body, {"s": np.float32(0.1), "t": np.float32(0.2), "z": np.int8(0)})

    assert qdq_sites(model) == ()
    assert kinds(without_qdq(model)) == ["QuantizeLinear", "DequantizeLinear"]


def test_dynamic_quantization_is_left_alone():
    model = insert_dynamic_qdq(network("y = Conv(x, w)", {"w": normal(5, 4, 3, 3)}), [("Conv_0", 0)])

    assert qdq_sites(model) == ()
    assert without_qdq(model) == infer_shapes(model)


def test_constant_nodes_count_as_constants():
    body = "s = Constant<value_float=0.1>() t = Constant<value = float t {0.1}>() y = Mul(x, t)"
    model = network(body, {})
    model.graph.node.insert(2, helper.make_node("QuantizeLinear", ["x", "t"], ["q"], "Q"))
    model.graph.node.insert(3, helper.make_node("DequantizeLinear", ["q", "t"], ["d"], "D"))
    model.graph.node[-1].input[0] = "d"

    (site,) = qdq_sites(model)

    assert site.tensor == "x"
    assert kinds(without_qdq(model)) == ["Constant", "Constant", "Mul"]


def test_one_tensor_quantized_in_two_ways_is_refused_as_parameters():
    body = """q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z)
        r = QuantizeLinear(x, t, z) e = DequantizeLinear(r, t, z) y = Add(d, e)"""
    model = network(body, {"s": np.float32(0.1), "t": np.float32(0.2), "z": np.int8(0)})

    with pytest.raises(ModelError, match="tensor 'x': expected one scale and zero point for all its uses"):
        qdq_edges(model)
    assert kinds(without_qdq(model)) == ["Add"]


def test_the_given_model_is_not_changed():
    model, edges, qparams = two_layers("int4")
    quantized = insert_qdq(model, edges, qparams)
    before = model.SerializeToString(), quantized.SerializeToString()

    insert_qdq(model, edges, qparams)
    without_qdq(quantized)
    insert_dynamic_qdq(model, [("Conv_0", 0)])

    assert (model.SerializeToString(), quantized.SerializeToString()) == before
