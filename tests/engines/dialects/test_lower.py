"""engines.dialects.lower: the older form computes what the newer one does, by ONNX Runtime."""

import numpy as np
import pytest
from onnx import TensorProto, helper

from avcompress.spec import ModelError
from engines.dialects.lower import lowered
from engines.opset import opset_of

RNG = np.random.default_rng(5)
X = RNG.standard_normal((1, 4, 8, 8)).astype(np.float32)
W = RNG.standard_normal((4, 4, 3, 3)).astype(np.float32)
INT = np.int64


@pytest.mark.parametrize(
    ("body", "constants", "opset"),
    [
        ("y = ReduceMean<keepdims=1>(x, a)", {"a": INT([2, 3])}, 18),
        ("y = ReduceMax<keepdims=0>(x, a)", {"a": INT([1])}, 20),
        ("y = ReduceL2(x)", {}, 18),
        ("y = ReduceMean<noop_with_empty_axes=0>(x, a)", {"a": np.zeros(0, INT)}, 18),
        ("a, b = Split<axis=1, num_outputs=2>(x) y = Sub(a, b)", {}, 18),
        ("a, b, c = Split<axis=2, num_outputs=3>(x) d = Concat<axis=2>(c, b) y = Concat<axis=2>(d, a)", {}, 18),
        ('y = Pad<mode="reflect">(x, p, , a)', {"p": INT([1, 2, 3, 0]), "a": INT([2, -1])}, 21),
        ("y = Pad(x, p, v)", {"p": INT([0, 0, 1, 1, 0, 0, 2, 0]), "v": np.float32(3)}, 23),
        (
            'y = Resize<mode="linear", antialias=0, keep_aspect_ratio_policy="stretch", axes=[2, 3]>(x, , s)',
            {"s": np.float32([2, 1.5])},
            18,
        ),
        ('y = Resize<mode="nearest", axes=[3]>(x, , , n)', {"n": INT([16])}, 19),
        ("y = AveragePool<kernel_shape=[2, 2], dilations=[1, 1], strides=[2, 2]>(x)", {}, 19),
        ("c = Conv<pads=[1, 1, 1, 1]>(x, w) y = Cast<to=1, saturate=1>(c)", {"w": W}, 22),
        ("y = ScatterElements<axis=3>(x, i, u)", {"i": np.zeros((1, 4, 8, 1), INT), "u": X[..., :1]}, 18),
        ('y = GridSample<mode="linear", padding_mode="zeros">(x, g)', {"g": np.tanh(X.reshape(1, 4, 32, 2))}, 20),
        (
            "q = QuantizeLinear<saturate=1>(x, s, z) y = DequantizeLinear<block_size=0>(q, s, z)",
            {"s": np.float32(0.05), "z": np.int8(0)},
            23,
        ),
        ("a = Reshape<allowzero=0>(x, s) y = Transpose<perm=[1, 0]>(a)", {"s": INT([4, 64])}, 23),
    ],
)
def test_the_older_form_computes_the_same(net, ort, body, constants, opset):
    model = net(body, constants, opset=opset)

    new = lowered(model, 17)

    assert opset_of(new) == 17
    # ONNX Runtime's own kernel of an opset may sum in another order.
    assert np.allclose(ort(new, X)[0], ort(model, X)[0], rtol=1e-6, atol=1e-6)
    assert opset_of(model) == opset


def test_an_output_type_becomes_a_zero_point(net, ort):
    model = net(
        f"q = QuantizeLinear<output_dtype={TensorProto.INT8}>(x, s) y = DequantizeLinear(q, s)",
        {"s": np.float32(0.05)},
        opset=21,
    )

    new = lowered(model, 17)

    assert len(new.graph.node[0].input) == 3
    assert np.array_equal(ort(new, X)[0], ort(model, X)[0])


def test_a_network_of_an_older_opset_is_not_touched(net):
    model = net("y = Relu(x)", opset=13)

    assert lowered(model, 17) is model


def test_only_what_the_opset_lacks_is_changed(net):
    model = net("r = ReduceMean(x, a) y = Relu(r)", {"a": INT([2, 3])}, opset=20)

    new = lowered(model, 19)

    assert opset_of(new) == 19
    assert list(new.graph.node[0].input) == ["x", "a"]


@pytest.mark.parametrize(
    ("body", "constants", "opset", "reason"),
    [
        ("y = Mish(x)", {}, 18, r"node 'Mish_0' \(Mish\): expected what opset 17 has, got an operator that came later"),
        ('y = ScatterElements<reduction="max">(x, i, u)', {"i": np.zeros((1, 4, 8, 8), INT), "u": X}, 18, "= max"),
        ('y = Pad<mode="wrap">(x, p)', {"p": INT([0, 0, 1, 1, 0, 0, 1, 1])}, 19, "mode = wrap"),
        ('y = Resize<mode="linear", antialias=1>(x, , s)', {"s": np.float32([1, 1, 0.5, 0.5])}, 18, "antialias = 1"),
        ("y = AveragePool<kernel_shape=[2, 2], dilations=[2, 2]>(x)", {}, 19, "dilations"),
        (
            'y = Resize<coordinate_transformation_mode="half_pixel_symmetric">(x, , s)',
            {"s": np.float32([1, 1, 2, 2])},
            19,
            "half_pixel_symmetric",
        ),
        (
            "s = Shape(x) a = Slice(s, i, j) r = ReduceMean(x, a) y = Reshape(r, t)",
            {"i": INT([0]), "j": INT([1]), "t": INT([-1])},
            18,
            "are computed",
        ),
        (
            "y = ReduceMean<noop_with_empty_axes=1>(x, a)",
            {"a": np.zeros(0, INT)},
            18,
            "a reduction over no axis",
        ),
    ],
)
def test_what_has_no_older_form_is_refused_with_the_node(net, body, constants, opset, reason):
    with pytest.raises(ModelError, match=reason):
        lowered(net(body, constants, opset=opset), 17)


def test_subgraphs_of_a_newer_opset_are_refused(net):
    model = net("y = Relu(x)", opset=21)
    branch = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["b"])], "g", [], [helper.make_empty_tensor_value_info("b")]
    )
    model.graph.node.append(helper.make_node("If", ["c"], ["z"], "if", then_branch=branch, else_branch=branch))

    with pytest.raises(ModelError, match=r"node 'if' \(If\): expected what opset 17 has, got a subgraph at opset 21"):
        lowered(model, 17)
