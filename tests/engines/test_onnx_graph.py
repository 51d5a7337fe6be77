"""engines.onnx_graph: every pass against ONNX Runtime."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper, parser

from avcompress.spec import ModelError
from engines.onnx_graph import (
    check,
    drop_unused_initializers,
    fold_batch_norms,
    infer_shapes,
    keep_output,
    macs,
    name_nodes,
    with_outputs,
)

RNG = np.random.default_rng(0)


def network(body, constants, shape=(1, 4, 6, 6), outputs=("y",)):
    """A model from ONNX text: `body` computes the outputs from x and the named constants."""
    header = '<ir_version: 8, opset_import: ["" : 17]>'
    dims = ",".join(map(str, shape))
    results = ", ".join(f"float[] {name}" for name in outputs)
    model = parser.parse_model(f"{header} net (float[{dims}] x) => ({results}) {{ {body} }}")
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    for name, value in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
    return check(name_nodes(infer_shapes(model)))


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def run(model, x, outputs=None):
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(model.SerializeToString(), options).run(outputs, {"x": x})


def kinds(model):
    return [node.op_type for node in model.graph.node]


def norm_constants(channels):
    return {"g": normal(channels), "be": normal(channels), "m": normal(channels), "v": RNG.uniform(0.1, 2, channels)}


# --- check, names


def test_a_value_that_nothing_computes_is_refused():
    model = network("y = Relu(x)", {})
    model.graph.node[0].input[0] = "ghost"

    with pytest.raises(ModelError, match="ghost"):
        check(model)


def test_nodes_without_a_name_of_their_own_are_refused():
    model = network("a = Relu(x) y = Relu(a)", {})
    model.graph.node[1].name = model.graph.node[0].name

    with pytest.raises(ModelError, match="expected unique node names, got 'Relu_0' 2 times"):
        check(model)


def test_names_are_repaired_and_those_that_are_unique_stay():
    model = network("a = Relu(x) b = Relu(a) c = Relu(b) y = Relu(c)", {})
    for node, name in zip(model.graph.node, ["", "act", "act", "act_1"], strict=True):
        node.name = name

    assert [node.name for node in name_nodes(model).graph.node] == ["Relu_0", "act", "act_2", "act_1"]


def test_unused_constants_are_dropped():
    model = network("y = Mul(x, k)", {"k": [2.0], "unused": [1.0]})

    assert [t.name for t in drop_unused_initializers(model).graph.initializer] == ["k"]


def test_constants_used_in_a_branch_only_stay():
    then = helper.make_graph([helper.make_node("Identity", ["k"], ["t"])], "then", [], [onnx.ValueInfoProto(name="t")])
    other = helper.make_graph([helper.make_node("Neg", ["k"], ["o"])], "else", [], [onnx.ValueInfoProto(name="o")])
    model = network("y = Relu(x)", {"k": [2.0]})
    node = helper.make_node("If", ["yes"], ["z"], then_branch=then, else_branch=other)
    model.graph.node.append(node)

    assert [t.name for t in drop_unused_initializers(model).graph.initializer] == ["k"]


# --- outputs


def test_added_outputs_hold_the_inner_values():
    model = network("a = Relu(x) y = Neg(a)", {})
    x = normal(1, 4, 6, 6)

    y, a = run(with_outputs(model, ["a", "y", "a"]), x)

    assert np.array_equal(a, np.maximum(x, 0))
    assert np.array_equal(y, -a)
    assert len(model.graph.output) == 1


# --- batch normalization


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("kind", ["Conv", "ConvTranspose"])
def test_folding_a_batch_norm_changes_nothing_but_the_graph(kind, group, bias):
    weight = normal(6, 4 // group, 3, 3) if kind == "Conv" else normal(4, 6 // group, 3, 3)
    constants = {"w": weight, "b": normal(6), **norm_constants(6)}
    body = (
        f"c = {kind}<group={group}>(x, w{', b' if bias else ''}) y = BatchNormalization<epsilon=0.001>(c, g, be, m, v)"
    )
    model = network(body, constants)
    x = normal(1, 4, 6, 6)

    folded = check(fold_batch_norms(model))

    assert kinds(folded) == [kind]
    assert np.allclose(run(folded, x)[0], run(model, x)[0], atol=2e-5)
    assert folded.graph.node[0].input[1] == "w"


def test_folding_computes_gamma_over_sigma():
    constants = {"w": [[[[2.0]]]], "g": [3.0], "be": [1.0], "m": [5.0], "v": [4.0]}
    model = network("c = Conv(x, w) y = BatchNormalization<epsilon=0.0>(c, g, be, m, v)", constants, (1, 1, 2, 2))

    folded = fold_batch_norms(model)

    values = [numpy_helper.to_array(t).reshape(-1).tolist() for t in folded.graph.initializer]
    assert values == [[3.0], [-6.5]]  # 3 / 2 * 2, and (0 - 5) * 3 / 2 + 1


@pytest.mark.parametrize(
    "body",
    [
        "c = Conv(x, w) n = BatchNormalization(c, g, be, m, v) y = Add(n, c)",
        "c = Concat<axis=1>(x, x) y = BatchNormalization(c, g2, be2, m2, v2)",
        "y = BatchNormalization(x, g, be, m, v)",
    ],
)
def test_a_batch_norm_stays_where_it_is_not_alone_behind_a_convolution(body):
    constants = {"w": normal(4, 4, 1, 1), **norm_constants(4)}
    constants |= {f"{name}2": value for name, value in norm_constants(8).items()}
    model = drop_unused_initializers(network(body, constants))

    assert fold_batch_norms(model) == model


def test_a_convolution_that_is_an_output_keeps_its_batch_norm():
    constants = {"w": normal(4, 4, 1, 1), **norm_constants(4)}
    model = network("c = Conv(x, w) y = BatchNormalization(c, g, be, m, v)", constants, outputs=("y", "c"))

    assert "BatchNormalization" in kinds(fold_batch_norms(model))


def test_a_weight_that_two_convolutions_share_is_folded_for_one_only():
    constants = {"w": normal(4, 4, 1, 1), **norm_constants(4)}
    model = network("a = Conv(x, w) n = BatchNormalization(a, g, be, m, v) y = Conv(n, w)", constants)
    x = normal(1, 4, 6, 6)

    folded = check(fold_batch_norms(model))

    assert kinds(folded) == ["Conv", "Conv"]
    assert np.allclose(run(folded, x)[0], run(model, x)[0], atol=2e-5)


# --- multiply-accumulates


@pytest.mark.parametrize(
    ("body", "weight", "expected"),
    [
        ("y = Conv(x, w)", (5, 4, 3, 3), 5 * 4 * 4 * 4 * 9),  # 4x4 outputs
        ("y = Conv<group=4, pads=[1,1,1,1]>(x, w)", (4, 1, 3, 3), 4 * 6 * 6 * 9),
        ("y = ConvTranspose<strides=[2,2]>(x, w)", (4, 5, 2, 2), 4 * 6 * 6 * 5 * 4),
        ("f = Flatten(x) y = Gemm<transB=1>(f, w)", (7, 144), 7 * 144),
        ("f = Flatten(x) y = Gemm(f, w)", (144, 7), 7 * 144),
        ("y = MatMul(x, w)", (6, 7), 4 * 6 * 7 * 6),
        ("t = Transpose<perm=[0,1,3,2]>(x) y = MatMul(x, t)", (), 4 * 6 * 6 * 6),
    ],
)
def test_macs_are_outputs_times_what_each_sums_over(body, weight, expected):
    (count,) = macs(network(body, {"w": normal(*weight)})).values()

    assert count == expected


def test_macs_of_an_unknown_shape_are_zero():
    model = network("y = Conv(x, w)", {"w": normal(4, 4, 1, 1)})
    model.graph.output[0].type.tensor_type.ClearField("shape")

    assert list(macs(model).values()) == [0]


# --- one output of several


def test_the_kept_output_has_the_same_numbers_and_nothing_that_only_the_others_need():
    body = "a = Relu(x) y = Conv(a, w) z = Conv(a, v) u = Sigmoid(z)"
    model = network(body, {"w": normal(4, 4, 1, 1), "v": normal(2, 4, 1, 1)}, outputs=("y", "u"))
    x = normal(1, 4, 6, 6)

    kept = check(keep_output(model, "y"))

    assert kinds(kept) == ["Relu", "Conv"]
    assert [t.name for t in kept.graph.initializer] == ["w"]
    assert [o.name for o in kept.graph.output] == ["y"]
    assert np.array_equal(run(kept, x)[0], run(model, x, ["y"])[0])
    assert len(model.graph.output) == 2


def test_an_output_that_a_later_node_reads_too_is_kept_with_what_it_needs():
    model = network("y = Relu(x) z = Sigmoid(y)", {}, outputs=("y", "z"))

    assert kinds(keep_output(model, "y")) == ["Relu"]
    assert kinds(keep_output(model, "z")) == ["Relu", "Sigmoid"]
