"""engines.dialects.decompose: older operators give the numbers of ONNX Runtime's own kernels."""

import numpy as np
import pytest
from onnx import numpy_helper

from avcompress.spec import ModelError
from engines.dialects.decompose import DECOMPOSED, decomposed
from engines.dialects.lower import lowered

RNG = np.random.default_rng(6)
X = RNG.standard_normal((2, 4, 8, 8)).astype(np.float32)
CASES = {
    "layer norm, last axis": ("y = LayerNormalization<axis=-1, epsilon=0.001>(x, s, b)", (8,), 17),
    "layer norm, three axes": ("y = LayerNormalization<axis=1>(x, s, b)", (4, 8, 8), 17),
    "layer norm without bias": ("y = LayerNormalization(x, s)", (8,), 17),
    "group norm of opset 21": ("y = GroupNormalization<num_groups=2>(x, s, b)", (4,), 21),
    "gelu": ("y = Gelu(x)", (), 20),
    "gelu by tanh": ('y = Gelu<approximate="tanh">(x)', (), 20),
    "mish": ("y = Mish(x)", (), 18),
    "rms norm": ("y = RMSNormalization<axis=-1>(x, s)", (8,), 23),
}


def parameters(shape):
    values = {name: RNG.standard_normal(shape).astype(np.float32) for name in "sb"}
    return values if shape else {}


@pytest.mark.parametrize("case", CASES)
def test_the_parts_compute_the_whole(net, ort, case):
    body, shape, opset = CASES[case]
    constants = {name: value for name, value in parameters(shape).items() if f", {name}" in body}
    model = net(f"before = Relu(x) {body.replace('(x', '(before')}", constants, X.shape, opset=opset, stated=X.shape)

    new, parts = decomposed(model, set(DECOMPOSED))

    left = {node.op_type for node in new.graph.node}
    assert not left & DECOMPOSED.keys()
    assert set(parts) == {node.name for node in new.graph.node} - {"Relu_0"}
    assert set(parts.values()) == {model.graph.node[1].name}
    assert [value.name for value in new.graph.output] == ["y"]
    expected = ort(model, X)[0]
    for each in (new, lowered(new, 17)):
        assert np.allclose(ort(each, X)[0], expected, rtol=1e-5, atol=1e-5)


def test_only_what_is_asked_for_is_written_anew(net):
    model = net("a = Gelu(x) y = Mish(a)", opset=20)

    new, _ = decomposed(model, {"Mish", "Relu"})
    same, parts = decomposed(model, {"Conv"})

    assert "Gelu" in {node.op_type for node in new.graph.node}
    assert same is model
    assert parts == {}


def test_other_nodes_keep_names_values_and_notes(net):
    w = RNG.standard_normal((4, 4, 1, 1)).astype(np.float32)
    model = net("c = Conv(x, w) y = Gelu(c)", {"w": w}, opset=20)
    model.graph.node[0].metadata_props.add(key="batch_norm.mean", value="abc")

    new, _ = decomposed(model, {"Gelu"})

    conv = new.graph.node[0]
    assert (conv.name, list(conv.input), list(conv.output)) == ("Conv_0", ["x", "w"], ["c"])
    assert {prop.key: prop.value for prop in conv.metadata_props} == {"batch_norm.mean": "abc"}
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in new.graph.initializer}
    assert np.array_equal(stored["w"], w)


def test_a_group_norm_of_unknown_shape_is_refused(net):
    model = net("y = GroupNormalization<num_groups=2>(x, s, b)", parameters((4,)), X.shape, opset=21, stated=X.shape)
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    del model.graph.value_info[:]

    with pytest.raises(ModelError, match=r"node 'GroupNormalization_0' .*expected a known shape"):
        decomposed(model, {"GroupNormalization"})
