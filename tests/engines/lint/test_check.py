"""What lint says of one small network a rule, and what TensorRT-RTX then does with it."""

import io

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
from onnx import TensorProto, helper

from avcompress.recipe import RtxEngine
from avcompress.spec import EngineBuildError
from engines.layer_map import layer_precisions, parse_layers
from engines.lint import RULES, lint
from engines.network import weighted_nodes
from engines.onnx_graph import name_nodes
from engines.tensorrt.build import rtx_settings
from engines.tensorrt.child import run_child
from engines.tensorrt.configure import RefusedError
from engines.tensorrt.worker import compile_network

REFUSED = "refused"
ZERO = np.int8(0)
FLOAT, INT8 = {"c1": "fp32"}, {"c1": "int8"}


def zeros(count, kind=np.int8):
    return np.zeros(count, kind)


def integer(kind):
    def make(net):
        n = net(opset=21)
        return n.model(n.conv("x", data=n.qdq("x", zero=kind(0))))

    return make


def activation(zero=ZERO, scale=0.05, **inputs):
    def make(net):
        n = net(**inputs)
        return n.model(n.conv("x", data=n.qdq("x", scale, zero)))

    return make


def weights(zero=ZERO, axis=0):
    def make(net):
        n = net(x=(1, 32, 16, 16))
        return n.model(n.conv("x", size=32, weight=n.weight(32, 32, 3, 3, axis=axis, zero=zero)))

    return make


def through(kind, *constants, **attributes):
    """Q/DQ, an operator, a convolution."""

    def make(net):
        n = net()
        inputs = ["" if value is None else n.constant(np.asarray(value)) for value in constants]
        tensor = n.op(kind, n.qdq("x"), *inputs, **attributes)
        return n.model(n.conv("", data=tensor))

    return make


def two_convs(between, **inputs):
    """A convolution, what `between` makes of it, another convolution."""

    def make(net):
        n = net(**inputs)
        tensor = between(n, n.conv("x", name="c0"))
        return n.model(n.conv(tensor, size=32))

    return make


def one(kind, *constants, domain="", outputs=1, domains=(), opset=17, **attributes):
    """One float operator."""

    def make(net):
        n = net(opset=opset)
        made = n.op(
            kind, "x", *[n.constant(value) for value in constants], domain=domain, outputs=outputs, **attributes
        )
        return n.model(made if outputs == 1 else made[0], domains=domains)

    return make


def int4(data):
    """A convolution with int4 weights."""

    def make(net):
        n = net(opset=21)
        stored = n.constant(helper.make_tensor("w", TensorProto.INT4, [32, 16, 3, 3], [1] * 32 * 144))
        weight = n.op("DequantizeLinear", stored, n.constant(np.full(32, 0.1, np.float32)), axis=0)
        return n.model(n.conv("x", data=n.qdq("x") if data else "x", weight=weight))

    return make


def bf16(net):
    n = net()
    return n.model(n.op("Cast", n.op("Relu", n.op("Cast", "x", to=TensorProto.BFLOAT16)), to=TensorProto.FLOAT))


def scale_at_run_time(net):
    n = net()
    scale = n.op("Div", n.op("ReduceMax", "x", keepdims=0), n.constant(np.float32(127)))
    grid = [scale, n.constant(np.int8(0))]
    return n.model(n.conv("", data=n.op("DequantizeLinear", n.op("QuantizeLinear", "x", *grid), *grid)))


def scales_too_few(net):
    n = net()
    grid = [n.constant(np.ones(5, np.float32)), n.constant(zeros(5))]
    weight = n.op("DequantizeLinear", n.constant(np.ones((32, 16, 3, 3), np.int8)), *grid, axis=0)
    return n.model(n.conv("x", weight=weight))


def bias(kind):
    def make(net):
        n = net()
        grid = [n.constant(np.full(32, 0.01, np.float32)), n.constant(zeros(32, kind))]
        values = n.constant(np.arange(32).astype(kind))
        return n.model(n.conv("x", bias=n.op("DequantizeLinear", values, *grid, axis=0)))

    return make


def half(opset):
    def make(net):
        n = net(opset=opset)
        data = n.qdq(n.op("Cast", "x", to=TensorProto.FLOAT16), np.asarray(0.05, np.float16))
        grid = [n.constant(np.full(32, 0.01, np.float16)), n.constant(zeros(32))]
        weight = n.op("DequantizeLinear", n.constant(np.ones((32, 16, 3, 3), np.int8)), *grid, axis=0)
        return n.model(n.op("Cast", n.conv("", data=data, weight=weight), to=TensorProto.FLOAT))

    return make


def fp8(net):
    n = net(opset=19)
    kind = TensorProto.FLOAT8E4M3FN
    grid = [n.constant(np.float32(0.05)), n.constant(helper.make_tensor("z", kind, [], [0.0]))]
    stored = helper.make_tensor("w", kind, [32, 16, 3, 3], np.linspace(-9, 9, 32 * 144))
    data = n.op("DequantizeLinear", n.op("QuantizeLinear", "x", *grid), *grid)
    return n.model(n.conv("", data=data, weight=n.op("DequantizeLinear", n.constant(stored), *grid)))


def large_fp8(*kernel):
    def make(net):
        n = net(x=(1, 16, 40, 40), opset=19)
        kind = TensorProto.FLOAT8E4M3FN
        grid = [n.constant(np.float32(0.05)), n.constant(helper.make_tensor("z", kind, [], [0.0]))]
        stored = helper.make_tensor("w", kind, [32, 16, *kernel], np.linspace(-9, 9, 512 * int(np.prod(kernel))))
        data = n.op("DequantizeLinear", n.op("QuantizeLinear", "x", *grid), *grid)
        return n.model(n.op("Conv", data, n.op("DequantizeLinear", n.constant(stored), *grid), name="c1"))

    return make


def attention(parts):
    """One product for query, key and value, or one each; heads of 16."""

    def make(net):
        n = net(x=(1, 64, 32))
        data = n.qdq("x")
        heads = n.constant(np.int64([1, 64, 2, 16]))
        if parts == 1:
            made = n.op("MatMul", data, n.weight(32, 96, axis=1), name="c1")
            split = n.op("Split", made, n.constant(np.int64([32, 32, 32])), outputs=3, axis=2)
        else:
            split = [n.op("MatMul", data, n.weight(32, 32, axis=1), name=f"c{i}") for i in (1, 2, 3)]
        query, key, value = (n.op("Transpose", n.op("Reshape", t, heads), perm=[0, 2, 1, 3]) for t in split)
        scores = n.op("MatMul", query, n.op("Transpose", key, perm=[0, 1, 3, 2]), name="qk")
        return n.model(n.op("MatMul", n.op("Softmax", scores, axis=-1), value, name="av"))

    return make


def pair_of_two_scales(net):
    n = net()
    zero = n.constant(np.int8(0))
    quantized = n.op("QuantizeLinear", "x", n.constant(np.float32(0.05)), zero)
    return n.model(n.conv("", data=n.op("DequantizeLinear", quantized, n.constant(np.float32(0.06)), zero)))


def residual(branch, skip):
    def make(net):
        n = net()
        before = n.op("Relu", n.conv("x", name="c0"))
        made = n.conv(before, size=32)
        sides = [n.qdq(made) if branch else made, n.qdq(before) if skip else before]
        return n.model(n.conv(n.op("Relu", n.op("Add", *sides)), size=32, name="c2"))

    return make


def shared_branch(net):
    """What is added to is needed elsewhere too, so that no addition can join its layer's kernel."""
    n = net()
    before = n.op("Relu", n.conv("x", name="c0"))
    made = n.conv(before, size=32)
    return n.model(n.conv(n.op("Mul", n.op("Add", made, before), made), size=32, name="c2"))


def concat(*scales, behind=False):
    def make(net):
        n = net()
        parts = [n.op("Relu", n.conv("x", name=f"p{i}")) for i in range(len(scales))]
        parts = [n.qdq(part, scale) if scale else part for part, scale in zip(parts, scales, strict=True)]
        joined = n.op("Concat", *parts, axis=1)
        return n.model(n.conv(joined, size=64, data=None if behind else joined))

    return make


def transposed(net):
    n = net()
    return n.model(n.op("ConvTranspose", n.qdq("x"), n.weight(16, 32, 2, 2, axis=1), name="c1", strides=[2, 2]))


def depthwise(net):
    n = net()
    return n.model(n.conv("x", out=16, group=16))


def one_side(net):
    n = net(x=(1, 64, 32))
    return n.model(n.op("MatMul", n.qdq("x"), n.op("Transpose", "x", perm=[0, 2, 1]), name="c1"))


def weight_only(net):
    n = net()
    return n.model(n.conv("x", data="x"))


def activation_only(net):
    n = net()
    return n.model(n.conv("x", weight=n.floats(32, 16, 3, 3)))


def narrow_product(net):
    n = net(x=(8, 64))
    return n.model(n.op("Gemm", n.qdq("x"), n.weight(10, 64), name="c1", transB=1))


def float_between(net):
    n = net()
    middle = n.conv("", data=n.op("Relu", n.conv("x", name="c0")), weight=n.floats(32, 32, 3, 3), name="middle")
    return n.model(n.conv(middle, size=32))


def integer_operator(kind, shape, grid):
    """QLinearConv and its kin, on an input that is quantized in the graph."""

    def make(net):
        n = net(x=(1, 16, 16, 16) if len(shape) == 4 else (4, 16))
        scale, zero = n.constant(np.float32(0.05)), n.constant(np.int8(0))
        stored = n.constant(np.ones(shape, np.int8))
        rest = {"QLinear": [scale, zero, stored, scale, zero, scale, zero], "Integer": [stored]}[grid]
        made = n.op(kind, n.op("QuantizeLinear", "x", scale, zero), *rest)
        return n.model(n.op("Cast", made, to=TensorProto.FLOAT))

    return make


def dynamic(net):
    n = net()
    quantized, scale, zero = n.op("DynamicQuantizeLinear", "x", outputs=3)
    return n.model(n.conv("", data=n.op("DequantizeLinear", quantized, scale, zero)))


def microsoft(net):
    n = net()
    return n.model(n.conv("", data=n.qdq("x", domain="com.microsoft")), domains=["com.microsoft"])


def nms(net):
    n = net(boxes=(1, 100, 4), scores=(1, 3, 100))
    limits = [n.constant(value) for value in (np.int64([10]), np.float32([0.5]), np.float32([0.1]))]
    return n.model(n.op("NonMaxSuppression", "boxes", "scores", *limits), kind=TensorProto.INT64)


def topk(k):
    def make(net):
        n = net(x=(1, 5000))
        return n.model(n.op("TopK", "x", n.constant(np.int64([k])), outputs=2)[0])

    return make


def double(net):
    n = net()
    weight = n.constant(np.ones((32, 16, 3, 3)))
    made = n.op("Conv", n.op("Cast", "x", to=TensorProto.DOUBLE), weight, name="c1")
    return n.model(n.op("Cast", made, to=TensorProto.FLOAT))


def not_finite(net):
    n = net()
    weight = n.constant(np.full((32, 16, 3, 3), np.nan, np.float32))
    return n.model(n.op("Conv", "x", weight, name="c1"))


def mixed(net):
    n = net()
    return n.model(n.op("Add", n.op("Cast", "x", to=TensorProto.FLOAT16), "x"))


def empty(net):
    return net().model()


def invalid(net):
    n = net()
    return n.model(n.op("Relu", "x", made_up=1))


def unnamed(net):
    model = activation()(net)
    for node in model.graph.node:
        node.name = ""
    return model


NEAREST = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
TWICE = [None, np.float32([1, 1, 2, 2])]
PAD = np.int64([0, 0, 1, 1, 0, 0, 1, 1])

# rule, severity, the network, what TensorRT-RTX does: refuse it, or give c1 a type; None: not asked
CASES = {
    "zero point": ("zero_point", "refused", activation(np.int8(3)), REFUSED),
    "zero point 128 of uint8": ("zero_point", "refused", activation(np.uint8(128)), REFUSED),
    "zero point of a weight": ("zero_point", "refused", weights(np.int8(1)), REFUSED),
    "uint8": ("uint8", "changed", activation(np.uint8(0)), INT8),
    "uint8 weight": ("uint8", "refused", weights(np.uint8(0)), REFUSED),
    "uint8 weight around 128": ("zero_point", "refused", weights(np.uint8(128)), REFUSED),
    "no zero point": ("no_zero_point", "changed", activation(None), INT8),
    "int16": ("integer_type", "refused", integer(np.int16), REFUSED),
    "uint16": ("integer_type", "refused", integer(np.uint16), REFUSED),
    "int4 weight, int8 input": ("integer_type", "refused", int4(True), REFUSED),
    "int32 bias": ("int32_bias", "refused", bias(np.int32), REFUSED),
    "scale 0": ("scale_value", "refused", activation(scale=0), REFUSED),
    "scale -1": ("scale_value", "refused", activation(scale=-1), REFUSED),
    "scale NaN": ("scale_value", "refused", activation(scale=np.nan), REFUSED),
    "scale infinite": ("scale_value", "changed", activation(scale=np.inf), INT8),
    "scale denormal": ("scale_value", "changed", activation(scale=1e-40), INT8),
    "scales too few": ("scale_length", "refused", scales_too_few, REFUSED),
    "scale at run time": ("scale_dynamic", "refused", scale_at_run_time, REFUSED),
    "scale in a list": ("scale_shape", "changed", activation(zeros(1), np.full(1, 0.05, np.float32)), FLOAT),
    "half scale, opset 17": ("scale_float16", "note", half(17), INT8),
    "two scales in a pair": ("pair_mismatch", "note", pair_of_two_scales, INT8),
    "fp8": ("fp8", "note", fp8, REFUSED),
    "per channel": ("per_channel_activation", "changed", activation(zeros(16), np.full(16, 0.05, np.float32)), FLOAT),
    "weight axis": ("weight_axis", "changed", weights(axis=1), FLOAT),
    "weight only": ("weight_only", "slower", weight_only, FLOAT),
    "activation only": ("activation_only", "slower", activation_only, FLOAT),
    "one side of a product": ("activation_only", "slower", one_side, FLOAT),
    "behind Relu": ("not_int8_through", "changed", through("Relu"), FLOAT),
    "behind Clip": ("not_int8_through", "changed", through("Clip", np.float32(0), np.float32(6)), FLOAT),
    "behind Sigmoid": ("not_int8_through", "changed", through("Sigmoid"), FLOAT),
    "behind HardSwish": ("not_int8_through", "changed", through("HardSwish"), FLOAT),
    "behind Resize": ("not_int8_through", "changed", through("Resize", *TWICE, **NEAREST), FLOAT),
    "behind linear Resize": ("not_int8_through", "changed", through("Resize", *TWICE, mode="linear"), FLOAT),
    "behind Add": ("not_int8_through", "changed", through("Add", np.float32(2)), FLOAT),
    "behind Pad of 1.5": ("not_int8_through", "changed", through("Pad", PAD, np.float32(1.5)), FLOAT),
    "behind AveragePool": ("not_int8_through", "changed", through("AveragePool", kernel_shape=[2, 2]), FLOAT),
    "behind SiLU": ("not_int8_through", "changed",
                    lambda net: (n := net()).model(n.conv("", data=n.silu(n.qdq("x")))), FLOAT),
    "transposed": ("conv_transpose", "slower", transposed, FLOAT),
    "query, key and value in one": ("attention_split", "changed", attention(1), FLOAT),
    "fp8, kernel of 49": ("fp8_kernel", "changed", large_fp8(7, 7), REFUSED),  # for sm86
    "depthwise": ("depthwise", "slower", depthwise, INT8),
    "few channels": ("few_channels", "slower",
                     lambda net: (n := net(x=(1, 3, 16, 16))).model(n.conv("x", size=3)), INT8),
    "few columns": ("few_channels", "slower", narrow_product, INT8),
    "float between": ("float_between_int8", "slower", float_between, INT8),
    "before Relu": ("qdq_before_activation", "slower", two_convs(lambda n, t: n.op("Relu", n.qdq(t))), INT8),
    "before SiLU": ("qdq_before_activation", "slower", two_convs(lambda n, t: n.silu(n.qdq(t))), INT8),
    "inside SiLU": ("qdq_inside_activation", "slower",
                    two_convs(lambda n, t: n.op("Mul", t, n.qdq(n.op("Sigmoid", t)))), INT8),
    "residual, both": ("residual_conv_side", "slower", residual(True, True), INT8),
    "residual, neither": ("residual_skip_float", "slower", residual(False, False), INT8),
    "concat, Q/DQ behind": ("concat_scales", "slower", concat(0.05, 0.08, behind=True), INT8),
    "concat, none behind": ("concat_scales", "changed", concat(0.05, 0.08), FLOAT),
    "concat, one float": ("concat_partly_float", "slower", concat(0.05, 0), FLOAT),
    "requantize": ("requantize", "slower", lambda net: (n := net()).model(n.conv(n.qdq("x", 0.07))), INT8),
    "twice": ("double_qdq", "slower", lambda net: (n := net()).model(n.conv(n.qdq("x"))), INT8),
    "softmax": ("float_operator", "slower", lambda net: (n := net()).model(n.op("Softmax", n.qdq("x"))), {}),
    "QLinearConv": ("qoperator", "refused", integer_operator("QLinearConv", (32, 16, 3, 3), "QLinear"), REFUSED),
    "QLinearMatMul": ("qoperator", "refused", integer_operator("QLinearMatMul", (16, 32), "QLinear"), REFUSED),
    "ConvInteger": ("dynamic_quantize", "refused", integer_operator("ConvInteger", (32, 16, 3, 3), "Integer"), REFUSED),
    "MatMulInteger": ("dynamic_quantize", "refused", integer_operator("MatMulInteger", (16, 32), "Integer"), REFUSED),
    "dynamic": ("dynamic_quantize", "refused", dynamic, REFUSED),
    "com.microsoft": ("microsoft_qdq", "note", microsoft, INT8),
    "Unique": ("unsupported_operator", "refused", one("Unique", outputs=4), REFUSED),
    "no such operator": ("unknown_operator", "refused", one("EfficientNMS_TRT"), REFUSED),
    "foreign": ("unknown_operator", "refused", one("Foo", domain="my.own", domains=["my.own"]), REFUSED),
    "FakeQuantize": ("unknown_operator", "refused", one("FakeQuantize", *np.float32([-1, 1, -1, 1]), levels=256,
                     domain="org.openvinotoolkit", domains=["org.openvinotoolkit"]), REFUSED),
    "NMS": ("nms", "refused", nms, REFUSED),
    "TopK 3841": ("topk", "refused", topk(3841), REFUSED),
    "double": ("double", "changed", double, FLOAT),
    "NaN": ("not_finite", "changed", not_finite, FLOAT),
    "float16 and float": ("mixed_types", "refused", mixed, REFUSED),
    "empty": ("empty", "refused", empty, REFUSED),
    "invalid": ("invalid", "note", invalid, None),
    "opset 26": ("opset", "note", one("Relu", opset=26), {}),
    "dynamic shape": ("dynamic_shape", "note", activation(x=("n", 16, 16, 16)), REFUSED),  # without a profile
    "unnamed": ("names", "note", unnamed, None),
    "float network": ("no_qdq", "note", one("Relu"), {}),
}  # fmt: skip

# what other targets make of it: target, rule, severity, the network
ELSEWHERE = [
    ("tensorrt-8", "weight_only", "refused", weight_only),
    ("tensorrt-8", "opset", "refused", activation(opset=18)),
    ("tensorrt-8", "fp8", "refused", fp8),
    ("tensorrt-8", "bf16", "refused", bf16),
    ("tensorrt-8", "scale_float16", "refused", half(19)),
    ("tensorrt-8", "integer_type", "refused", int4(False)),
    ("tensorrt-10", "integer_type", "refused", int4(False)),
    ("tensorrt-10", "attention_split", "note", attention(1)),
    ("tensorrt-10", "fp8_kernel", "changed", large_fp8(3, 11)),
    ("tensorrt-11", "uint8", "changed", activation(np.uint8(0))),
    ("onnxruntime", "scale_float16", "refused", half(17)),
    ("onnxruntime", "scale_length", "refused", scales_too_few),
    ("onnxruntime", "scale_value", "changed", activation(scale=0)),
    ("openvino", "unknown_operator", "refused", one("Foo", domain="my.own", domains=["my.own"])),
]
# what OpenVINO and ONNX Runtime are not asked: only their first run fails, or they take what means nothing
NOT_ASKED = {
    "onnxruntime": {"scales too few", "double", "ConvInteger", "opset 26"},  # the last two: by its version
    "openvino": {"empty"},
}

# what INT8 passes, or takes: nothing to say, and c1 is INT8
CLEAN = {
    "plain": activation(),
    "int8 bias": bias(np.int8),
    "half, opset 19": half(19),
    "tensor-wise weight": weights(axis=None),
    "negative axis": weights(axis=-4),
    "Relu between": two_convs(lambda n, t: n.op("Relu", t)),
    "SiLU between": two_convs(lambda n, t: n.silu(t)),
    "residual": residual(False, True),
    "addition of no kernel": shared_branch,
    "tied concat": concat(0.05, 0.05),
    "float concat": concat(0, 0, behind=True),
    "TopK": topk(3840),
    "MaxPool": through("MaxPool", kernel_shape=[2, 2]),
    "Transpose": through("Transpose", perm=[0, 1, 3, 2]),
    "Reshape": through("Reshape", np.int64([1, 16, 8, 32])),
    "Slice": through("Slice", np.int64([0]), np.int64([8]), np.int64([2])),
    "Pad": through("Pad", PAD),
    "Pad reflect": through("Pad", PAD, mode="reflect"),
    "Gather": through("Gather", np.arange(16), axis=1),
    "Mul": through("Mul", np.float32(2)),
    "Neg": through("Neg"),
    "Identity": through("Identity"),
    "GlobalMaxPool": through("GlobalMaxPool"),
    "scale in a Constant": lambda net: constants_as_nodes(activation()(net)),
}


def constants_as_nodes(model):
    """The model with every initializer as a Constant node."""
    nodes = [helper.make_node("Constant", [], [t.name], f"{t.name}.node", value=t) for t in model.graph.initializer]
    old = list(model.graph.node)
    del model.graph.initializer[:]
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *old])
    return model


def said(model, target="tensorrt-rtx"):
    return {(finding.rule, finding.severity) for finding in lint(model, target)}


@pytest.mark.parametrize("case", CASES)
def test_lint_says_what_is_wrong(net, case):
    rule, severity, make, _ = CASES[case]

    assert (rule, severity) in said(make(net))


@pytest.mark.parametrize("case", CLEAN)
def test_lint_says_nothing_of_what_is_right(net, case):
    assert said(CLEAN[case](net)) <= {("no_qdq", "note")}


@pytest.mark.parametrize(("target", "rule", "severity", "make"), ELSEWHERE)
def test_lint_says_what_is_wrong_on_other_targets(net, target, rule, severity, make):
    assert (rule, severity) in said(make(net), target)


def test_every_rule_has_a_case():
    assert {rule for rule, *_ in CASES.values()} | {rule for _, rule, *_ in ELSEWHERE} == set(RULES)


# --- what the targets themselves do


def opens_in_onnxruntime(model):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:
        return False
    return True


def opens_in_openvino(model):
    core = openvino.Core()
    try:
        core.compile_model(core.read_model(io.BytesIO(model.SerializeToString())), "CPU")
    except RuntimeError:
        return False
    return True


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_onnxruntime_and_openvino_refuse_what_lint_says_they_do(net, target, case):
    if case in NOT_ASKED[target] or (case, target) == ("invalid", "onnxruntime"):
        pytest.skip("not asked")
    model = CASES[case][2](net)

    opens = opens_in_onnxruntime(model) if target == "onnxruntime" else opens_in_openvino(model)

    assert opens == all(severity != "refused" for _, severity in said(model, target))


def rtx(capability="sm86"):
    return rtx_settings(RtxEngine(backend="trt_rtx", compute_capabilities=(capability,)))


def saved(model, folder):
    onnx.save(model, folder / "net.onnx")
    return folder / "net.onnx"


def compile_rtx(model, folder, capability="sm86"):
    """What TensorRT-RTX itself makes of a model, without our own checks before it: a refusal, or each layer's type."""
    log = io.StringIO()
    try:
        compile_network(saved(model, folder), folder, rtx(capability), log.write, log.write)
    except RefusedError:
        return REFUSED
    return layer_precisions(parse_layers(log.getvalue()), weighted_nodes(name_nodes(model)))


@pytest.mark.rtx
@pytest.mark.parametrize("case", [name for name, (*_, outcome) in CASES.items() if outcome is not None])
def test_tensorrt_rtx_does_what_lint_says(net, case, tmp_path):
    pytest.importorskip("tensorrt_rtx")
    *_, make, outcome = CASES[case]

    if case == "scale at run time":  # the compiler crashes: in a process of its own
        with pytest.raises(EngineBuildError, match="SIGSEGV"):
            run_child(saved(make(net), tmp_path), tmp_path, rtx())
        return
    built = compile_rtx(make(net), tmp_path)

    assert built == REFUSED if outcome == REFUSED else outcome.items() <= built.items()


@pytest.mark.rtx
@pytest.mark.parametrize("case", [name for name in CLEAN if name != "TopK"])
def test_tensorrt_rtx_takes_what_lint_finds_right(net, case, tmp_path):
    pytest.importorskip("tensorrt_rtx")

    built = compile_rtx(CLEAN[case](net), tmp_path)

    assert set(built.values()) == {"int8"}


@pytest.mark.rtx
@pytest.mark.parametrize("kernel", [(3, 3), (4, 8), (2, 16), (3, 11), (7, 7)])
def test_tensorrt_rtx_runs_large_kernels_in_float_that_lint_names_and_others_in_fp8(net, kernel, tmp_path):
    pytest.importorskip("tensorrt_rtx")
    model = large_fp8(*kernel)(net)

    built = compile_rtx(model, tmp_path, "sm89")

    found = "fp8_kernel" in {rule for rule, _ in said(model)}
    assert built == {"c1": "fp32" if found else "fp8"}
    assert found == (np.prod(kernel) > 32)


@pytest.mark.rtx
def test_tensorrt_rtx_keeps_products_of_their_own_for_query_key_and_value_in_int8(net, tmp_path):
    pytest.importorskip("tensorrt_rtx")
    model = attention(3)(net)

    built = compile_rtx(model, tmp_path)

    assert "attention_split" not in {rule for rule, _ in said(model)}
    assert {built[name] for name in ("c1", "c2", "c3")} == {"int8"}
