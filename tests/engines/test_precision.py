"""engines.precision: FP16 and BF16 networks; what they compute is held against NumPy's own rounding."""

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper, parser

from avcompress.spec import ModelError, QuantParams
from engines.in_memory import open_model
from engines.onnx_graph import check, infer_shapes, name_nodes
from engines.opset import opset_of
from engines.ort_dialect import with_float_kernels
from engines.precision import cast_network
from engines.qdq import insert_qdq

RNG = np.random.default_rng(3)
NUMPY = {"fp16": np.float16, "bf16": ml_dtypes.bfloat16}
ONNX = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


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


def run(model, x):
    return open_model(with_float_kernels(model)).run(None, {"x": x})


def types(model):
    """The element type of every tensor."""
    graph = model.graph
    found = {t.name: t.data_type for t in graph.initializer}
    values = (*graph.input, *graph.output, *graph.value_info)
    return found | {value.name: value.type.tensor_type.elem_type for value in values}


def rounded(values, kind):
    return np.asarray(values, np.float32).astype(NUMPY[kind]).astype(np.float32)


@pytest.mark.parametrize("kind", ["fp16", "bf16"])
def test_every_operator_reads_and_gives_rounded_values(kind):
    w, v, b = normal(5, 4, 1, 1), normal(3, 5, 1, 1), normal(5)
    model = network("a = Conv(x, w, b) r = Relu(a) y = Conv(r, v)", {"w": w, "v": v, "b": b})
    x = normal(1, 4, 6, 6)

    new, reasons = cast_network(model, kind, {})

    a = np.einsum("oc,nchw->nohw", rounded(w, kind)[:, :, 0, 0], rounded(x, kind)) + rounded(b, kind)[:, None, None]
    r = np.maximum(rounded(a, kind), 0)
    expected = rounded(np.einsum("oc,nchw->nohw", rounded(v, kind)[:, :, 0, 0], r), kind)
    step = {"fp16": 2**-10, "bf16": 2**-7}[kind]  # sums in another order may fall on the other side of a tie
    assert np.allclose(run(new, x)[0], expected, rtol=step, atol=step / 4)
    assert np.mean(run(new, x)[0] == expected) > 0.9
    assert reasons == {}


@pytest.mark.parametrize("kind", ["fp16", "bf16"])
def test_inputs_and_outputs_stay_fp32_under_their_names(kind):
    model = network(
        "a = Conv(x, w) y = Relu(a) b = Conv(y, w) z = Relu(b)", {"w": normal(4, 4, 1, 1)}, outputs=("y", "z")
    )

    new, _ = cast_network(model, kind, {})

    assert [v.name for v in (*new.graph.input, *new.graph.output)] == ["x", "y", "z"]
    assert {v.type.tensor_type.elem_type for v in (*new.graph.input, *new.graph.output)} == {TensorProto.FLOAT}
    assert all(types(new)[name] == ONNX[kind] for n in new.graph.node if n.op_type == "Conv" for name in n.input)


def test_the_scales_of_a_resize_stay_fp32():
    body = 'a = Conv(x, w) r = Resize<mode="nearest">(a, , s) y = Conv(r, w)'
    model = network(body, {"w": normal(4, 4, 1, 1), "s": np.array([1, 1, 2, 2], np.float32)})

    for kind in ("fp16", "bf16"):
        new, _ = cast_network(model, kind, {})
        assert types(new)["s"] == TensorProto.FLOAT
        assert types(new)["a"] == types(new)["r"] == ONNX[kind]


@pytest.mark.parametrize("kind", ["fp16", "bf16"])
def test_what_follows_the_last_weighted_layers_stays_fp32(kind):
    body = "a = Conv(x, w) e = Exp(a) y = Mul(e, s)"
    model = network(body, {"w": normal(4, 4, 1, 1), "s": np.float32(8)})

    new, reasons = cast_network(model, kind, {})

    assert types(new)["e"] == types(new)["s"] == TensorProto.FLOAT
    assert reasons == dict.fromkeys(["Exp_1", "Mul_2"], "after the last weighted layers")


def test_kept_nodes_compute_in_fp32():
    model = network("a = Conv(x, w) b = Sigmoid(a) y = Conv(b, w)", {"w": normal(4, 4, 1, 1)})

    new, reasons = cast_network(model, "fp16", {"Conv_0": "asked for"})

    known = types(new)
    assert [known[n] for n in new.graph.node[0].input] == [TensorProto.FLOAT] * 2
    assert known["b"] == TensorProto.FLOAT16
    assert reasons == {"Conv_0": "asked for"}
    assert sorted(t.data_type for t in new.graph.initializer) == [TensorProto.FLOAT, TensorProto.FLOAT16]


@pytest.mark.parametrize(
    ("constant", "why"),
    [(1e5, "constant 'c' reaches 1e+05, beyond the format"), (1e-12, "constant 'c' of 1e-12 would become zero")],
)
def test_a_constant_that_fp16_cannot_hold_keeps_its_node_in_fp32(constant, why):
    model = network("m = Mul(x, c) d = Div(m, c) y = Conv(d, w)", {"w": normal(4, 4, 1, 1), "c": np.float32(constant)})
    x = normal(1, 4, 6, 6)

    new, reasons = cast_network(model, "fp16", {})

    assert reasons == {"Mul_0": why, "Div_1": why}
    assert np.allclose(run(new, x)[0], run(model, x)[0], atol=0.02)
    assert cast_network(model, "bf16", {})[1] == {}


def test_a_weight_beyond_the_format_keeps_its_layer_in_fp32():
    w = normal(4, 4, 1, 1)
    w[0, 0] = 70000

    _, reasons = cast_network(network("a = Conv(x, w) y = Conv(a, v)", {"w": w, "v": normal(4, 4, 1, 1)}), "fp16", {})

    assert reasons == {"Conv_0": "constant 'w' reaches 7e+04, beyond the format"}


def test_infinite_constants_stay_infinite():
    body = "c = Clip(x, low, high) y = Conv(c, w)"
    model = network(body, {"w": normal(4, 4, 1, 1), "low": np.float32(0), "high": np.float32(np.inf)})

    assert cast_network(model, "fp16", {})[1] == {}


# --- with Q/DQ


def quantized(scale_x=0.03, channel_scales=(0.01, 0.02, 0.005, 0.01), body="y = Conv(x, w) "):
    model = network(body, {"w": normal(4, 4, 1, 1)})
    names = [n.name for n in model.graph.node if n.op_type == "Conv"]
    qparams = {"x": QuantParams((scale_x,), (0,)), "w": QuantParams(channel_scales, (0,) * 4, "int8", 0)}
    return insert_qdq(model, [edge for name in names[:1] for edge in ((name, 0), (name, 1))], qparams)


@pytest.mark.parametrize(("kind", "opset"), [("fp16", 19), ("bf16", 22)])
def test_a_quantized_layer_is_fed_by_dequantizers_of_the_format(kind, opset):
    new, reasons = cast_network(quantized(), kind, {})

    known, made = types(new), {n.output[0]: n for n in new.graph.node}
    (conv,) = (n for n in new.graph.node if n.op_type == "Conv")
    assert {made[name].op_type for name in conv.input} == {"DequantizeLinear"}
    assert {known[name] for name in conv.input} == {ONNX[kind]}
    assert {known[made[name].input[1]] for name in conv.input} == {ONNX[kind]}
    assert opset_of(new) == opset
    assert reasons == {}


def test_a_quantized_network_keeps_its_numbers_within_the_rounding_of_its_scales():
    model, x = quantized(), normal(1, 4, 6, 6)

    new, _ = cast_network(model, "fp16", {})

    # A scale is off by 2**-12 at most, so an activation may land on the level beside its own.
    assert np.abs(run(new, x)[0] - run(model, x)[0]).max() < 0.03 * 127 * 0.02 + 0.01


def test_scales_too_fine_for_fp16_stay_fp32_with_all_of_their_layer():
    model = quantized(channel_scales=(0.01, 2e-7, 0.01, 0.01))

    new, reasons = cast_network(model, "fp16", {})

    known = types(new)
    (conv,) = (n for n in new.graph.node if n.op_type == "Conv")
    assert {known[name] for name in conv.input} == {TensorProto.FLOAT}
    assert "scale 'w_scale' goes down to 2e-07" in reasons["Conv_0"]
    assert "QuantizeLinear" in {n.op_type for n in new.graph.node}


def test_layers_that_read_one_quantized_tensor_have_one_precision():
    body = "a = Conv(x, w) b = Conv(x, w) s = Add(a, b) y = Conv(s, w)"
    model = network(body, {"w": normal(4, 4, 1, 1)})
    qparams = {"x": QuantParams((0.03,), (0,)), "w": QuantParams((0.01,), (0,))}
    model = insert_qdq(model, [("Conv_0", 0), ("Conv_1", 0), ("Conv_0", 1), ("Conv_1", 1)], qparams)

    _, reasons = cast_network(model, "fp16", {"Conv_0": "asked for"})

    assert reasons["Conv_1"].startswith("shares a quantized tensor with")
    assert "Conv_3" not in reasons
    assert "Add_2" not in reasons


# --- what must not be touched


def test_arithmetic_on_shapes_stays_as_it_is():
    body = """h = Shape(x) f = Cast<to=1>(h) g = Mul(f, two) i = Cast<to=7>(g)
        r = Resize<mode="nearest">(x, , , i) y = Conv(r, w)"""
    model = network(body, {"w": normal(4, 4, 1, 1), "two": np.array([1, 1, 2, 2], np.float32)})

    new, reasons = cast_network(model, "fp16", {})

    assert types(new)["f"] == types(new)["g"] == types(new)["two"] == TensorProto.FLOAT
    assert reasons["Mul_2"] == "arithmetic on shapes"
    assert run(new, normal(1, 4, 6, 6))[0].shape == (1, 4, 12, 12)


def test_subgraphs_find_fp32_under_the_old_names():
    body = """a = Conv(x, w)
        b = If(flag) <then_branch = then () => (t) { t = Relu(a) }, else_branch = other () => (e) { e = Neg(a) }>
        y = Conv(b, w)"""
    model = network(body, {"w": normal(4, 4, 1, 1), "flag": np.bool_(True)})
    x = normal(1, 4, 6, 6)

    new, _ = cast_network(model, "fp16", {})

    assert types(new)["a"] == TensorProto.FLOAT
    assert types(new)["a_fp16"] == TensorProto.FLOAT16
    assert np.allclose(run(new, x)[0], run(model, x)[0], atol=0.05)


def test_operators_of_other_domains_stay_fp32():
    model = network("a = Conv(x, w) y = Conv(a, w)", {"w": normal(4, 4, 1, 1)})
    model.graph.node.insert(1, helper.make_node("Twist", ["a"], ["t"], "twist", domain="com.acme"))
    model.graph.node[2].input[0] = "t"
    model.opset_import.append(helper.make_opsetid("com.acme", 1))

    for kind in ("fp16", "bf16"):
        new, reasons = cast_network(model, kind, {})
        nodes = {n.name: n for n in new.graph.node}
        assert types(new)[nodes["twist"].input[0]] == TensorProto.FLOAT
        assert "twist" in reasons
        assert "Conv_1" in reasons  # what it reads has no known type
        assert {o.domain for o in new.opset_import} == {"", "com.acme"}


def test_operators_that_onnx_has_in_fp32_only_stay_so():
    model = network(
        "d, s, z = DynamicQuantizeLinear(x) q = DequantizeLinear(d, s, z) y = Conv(q, w)", {"w": normal(4, 4, 1, 1)}
    )

    new, _ = cast_network(model, "fp16", {})

    known = types(new)
    assert known["x"] == known["s"] == TensorProto.FLOAT
    assert known["q"] == TensorProto.FLOAT16
    x = normal(1, 4, 6, 6)
    assert np.allclose(run(new, x)[0], run(model, x)[0], atol=0.1)


def test_a_model_that_does_not_convert_is_refused():
    model = network("y = Conv(x, w)", {"w": normal(4, 4, 1, 1)}, opset=17)
    model.graph.node[0].op_type = "Nonsense"

    with pytest.raises(ModelError, match="expected a model that converts from opset 17 to 22, which bf16 needs"):
        cast_network(model, "bf16", {})


def test_every_kind_of_layer_is_cast(every_kind):
    rng = np.random.default_rng(0)
    feeds = {"image": rng.normal(0, 1, (1, 3, 32, 32)), "tokens": rng.normal(0, 1, (1, 64, 32))}
    feeds = {name: value.astype(np.float32) for name, value in feeds.items()}
    expected = open_model(every_kind).run(None, feeds)

    for kind, error in (("fp16", 2e-3), ("bf16", 2e-2)):
        new, reasons = cast_network(infer_shapes(every_kind), kind, {})
        found = open_model(with_float_kernels(new)).run(None, feeds)
        assert set(reasons.values()) <= {"after the last weighted layers"}
        for a, b in zip(expected, found, strict=True):
            assert 0 < np.abs(a - b).max() < error * max(1, np.abs(a).max())


def test_the_given_model_is_not_changed_and_equal_inputs_give_equal_bytes():
    model = quantized()
    before = model.SerializeToString()

    first, second = (cast_network(model, "fp16", {})[0].SerializeToString() for _ in range(2))

    assert model.SerializeToString() == before
    assert first == second


@given(seed=st.integers(0, 10**6), size=st.floats(0.01, 100))
@settings(deadline=None, max_examples=25)
def test_fp16_is_off_by_the_rounding_of_its_operands(seed, size):
    rng = np.random.default_rng(seed)
    x, w = rng.normal(0, size, (1, 4, 2, 2)).astype(np.float32), rng.normal(0, 1, (3, 4, 1, 1)).astype(np.float32)
    model = network("y = Conv(x, w)", {"w": w}, (1, 4, 2, 2))

    found = run(cast_network(model, "fp16", {})[0], x)[0]

    bound = np.einsum("oc,nchw->nohw", np.abs(w)[:, :, 0, 0], np.abs(x)) * 3.1 * 2**-11 + 1e-6
    assert (np.abs(found - run(model, x)[0]) <= bound).all()


def test_a_cast_model_is_valid_onnx():
    onnx.checker.check_model(cast_network(quantized(), "bf16", {})[0], full_check=True)
