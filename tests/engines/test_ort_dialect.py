import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from engines.in_memory import open_model
from engines.ort import build_ort, open_ort
from engines.ort_dialect import with_float_kernels

TYPES = {"fp16": (np.float16, TensorProto.FLOAT16), "bf16": (ml_dtypes.bfloat16, TensorProto.BFLOAT16)}


def products(kind):
    """y = relu(x W) V in a low type, x and y FP32."""
    dtype, onnx_type = TYPES[kind]
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(0, 1, (8, 5)).astype(dtype), "v": rng.normal(0, 1, (5, 4)).astype(dtype)}
    nodes = [
        helper.make_node("Cast", ["x"], ["xl"], "in", to=onnx_type),
        helper.make_node("MatMul", ["xl", "w"], ["a"], "first"),
        helper.make_node("Relu", ["a"], ["r"], "relu"),
        helper.make_node("MatMul", ["r", "v"], ["b"], "second"),
        helper.make_node("Cast", ["b"], ["y"], "out", to=TensorProto.FLOAT),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [3, 4])
    parts = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "g", [x], [y], parts)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10), weights


def as_numpy(x, weights, kind):
    dtype = TYPES[kind][0]

    def step(values):
        return values.astype(dtype).astype(np.float32)

    a = step(step(x) @ weights["w"].astype(np.float32))
    return step(np.maximum(a, 0) @ weights["v"].astype(np.float32))


@pytest.mark.parametrize("kind", ["fp16", "bf16"])
def test_each_operator_computes_in_fp32_and_rounds_its_result(kind):
    model, weights = products(kind)
    x = np.random.default_rng(1).normal(0, 1, (3, 8)).astype(np.float32)

    (found,) = open_model(with_float_kernels(model)).run(None, {"x": x})

    assert np.allclose(found, as_numpy(x, weights, kind), rtol=2.0 ** (-10 if kind == "fp16" else -7))
    assert np.mean(found == as_numpy(x, weights, kind)) > 0.7  # sums in another order may round the other way


def test_only_casts_have_operands_of_the_type():
    new = with_float_kernels(products("bf16")[0])

    known = {v.name: v.type.tensor_type.elem_type for v in (*new.graph.value_info, *new.graph.input, *new.graph.output)}
    known |= {t.name: t.data_type for t in new.graph.initializer}
    for node in new.graph.node:
        if node.op_type != "Cast":
            assert {known[name] for name in (*node.input, *node.output)} == {TensorProto.FLOAT}
    assert [n.name for n in new.graph.node if n.op_type != "Cast"] == ["first", "relu", "second"]


def test_a_network_in_fp32_is_the_same_object(two_convs):
    assert with_float_kernels(two_convs) is two_convs


def test_inputs_outputs_and_values_made_in_the_type_keep_it():
    h = TensorProto.FLOAT16
    nodes = [
        helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.float16([1, 2]), "c")),
        helper.make_node("Add", ["x", "c"], ["s"], "add"),
        helper.make_node("Identity", ["s"], ["y"], "copy"),
    ]
    x, y = helper.make_tensor_value_info("x", h, [2]), helper.make_tensor_value_info("y", h, [2])
    graph = helper.make_graph(nodes, "g", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    (found,) = open_model(with_float_kernels(model)).run(None, {"x": np.float16([0.5, 2048])})

    assert found.dtype == np.float16
    assert found.tolist() == [1.5, 2050]


def test_the_engine_runs_bf16_and_says_what_goes_in(tmp_path):
    model, weights = products("bf16")
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    x = np.ones((3, 8), np.float32)

    build_ort(tmp_path / "net.onnx", tmp_path)

    with open_ort(tmp_path / "model.onnx") as session:
        assert session.inputs == {"x": (3, 8)}
        assert np.allclose(session.run({"x": x})["y"], as_numpy(x, weights, "bf16"), rtol=2**-7)
