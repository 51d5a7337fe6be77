"""ONNX Runtime with graph optimizations off is the oracle: what OpenVINO computes must be what ONNX defines."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from avcompress.recipe import OpenVinoEngine
from engines.openvino import build_openvino, open_openvino
from engines.openvino_dialect import in_fp32, with_fake_quantize
from engines.ort import open_ort

ENGINE = OpenVinoEngine(backend="openvino")
CHANNELS = 8
ZERO = np.int8(0)


def pair(tensor: str, scale: float, zero_point: np.integer, parts: list[onnx.TensorProto]) -> list[onnx.NodeProto]:
    parts.append(numpy_helper.from_array(np.float32(scale), f"{tensor}_s"))
    parts.append(numpy_helper.from_array(np.asarray(zero_point), f"{tensor}_z"))
    return [
        helper.make_node("QuantizeLinear", [tensor, f"{tensor}_s", f"{tensor}_z"], [f"{tensor}_q"], f"{tensor}_Q"),
        helper.make_node(
            "DequantizeLinear", [f"{tensor}_q", f"{tensor}_s", f"{tensor}_z"], [f"{tensor}_d"], f"{tensor}_D"
        ),
    ]


def concat_net(branches: tuple[str, ...], scale: float, where: str, zero_point: np.integer = ZERO) -> onnx.ModelProto:
    """Branches of x, concatenated, quantized before or after the Concat, and an identity convolution in INT8."""
    parts: list[onnx.TensorProto] = []
    nodes = [helper.make_node(op, ["x"], [f"b{i}"], f"branch{i}") for i, op in enumerate(branches)]
    names = [f"b{i}" for i in range(len(branches))]
    if where == "before":
        for name in names:
            nodes += pair(name, scale, zero_point, parts)
        names = [f"{name}_d" for name in names]
    nodes.append(helper.make_node("Concat", names, ["c"], "concat", axis=1))
    if where == "after":
        nodes += pair("c", scale, zero_point, parts)
    width = CHANNELS * len(branches)
    parts.append(numpy_helper.from_array(np.eye(width, dtype=np.int8)[:, :, None, None] * np.int8(127), "w_q"))
    parts.append(numpy_helper.from_array(np.full(width, 1 / 127, np.float32), "w_s"))
    parts.append(numpy_helper.from_array(np.zeros(width, np.int8), "w_z"))
    nodes.append(helper.make_node("DequantizeLinear", ["w_q", "w_s", "w_z"], ["w"], "w_D", axis=0))
    nodes.append(helper.make_node("Conv", ["c_d" if where == "after" else "c", "w"], ["y"], "conv"))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, CHANNELS, 8, 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, width, 8, 8])
    graph = helper.make_graph(nodes, "concat", [x], [y], parts)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def both(model: onnx.ModelProto, x: np.ndarray, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    path = folder / "net.onnx"
    path.write_bytes(model.SerializeToString())
    build_openvino(path, folder, ENGINE)
    with open_ort(path) as reference, open_openvino(folder, ENGINE) as openvino:
        return reference.run({"x": x})["y"], openvino.run({"x": x})["y"]


@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("branches", [("Neg", "Relu"), ("Relu", "Relu"), ("Neg", "Sigmoid", "Tanh")])
def test_a_quantized_concatenation_is_computed_as_onnx_defines_it(tmp_path: Path, branches, where: str) -> None:
    x = np.linspace(-1, 1, CHANNELS * 64, dtype=np.float32).reshape(1, CHANNELS, 8, 8)
    expected, found = both(concat_net(branches, 1 / 127, where), x, tmp_path)

    np.testing.assert_allclose(found, expected, atol=1e-6)


@settings(max_examples=15, deadline=None)
@given(scale=st.floats(1e-3, 10), zero_point=st.integers(-128, 127), seed=st.integers(0, 99))
def test_any_scale_and_zero_point_agree_within_one_step(
    tmp_path_factory, scale: float, zero_point: int, seed: int
) -> None:
    x = np.random.default_rng(seed).uniform(-200 * scale, 200 * scale, (1, CHANNELS, 8, 8)).astype(np.float32)
    model = concat_net(("Neg", "Relu"), scale, "after", np.int8(zero_point))
    expected, found = both(model, x, tmp_path_factory.mktemp("net"))

    # A tie may round the other way: FakeQuantize multiplies by 1 / step where QuantizeLinear divides by it.
    assert np.abs(found - expected).max() <= scale * 1.001
    assert np.mean(np.abs(found - expected) > scale * 1e-3) < 0.02


def test_weights_and_what_is_not_a_pair_stay_as_they_are() -> None:
    model = concat_net(("Neg", "Relu"), 1 / 127, "after")
    kinds = [node.op_type for node in with_fake_quantize(model).graph.node]

    assert kinds == ["Neg", "Relu", "Concat", "FakeQuantize", "DequantizeLinear", "Conv"]
    assert [node.op_type for node in model.graph.node].count("QuantizeLinear") == 1  # the original is untouched


def test_a_quantized_tensor_that_is_also_an_output_keeps_its_quantize_node() -> None:
    model = concat_net(("Neg",), 1 / 127, "after")
    model.graph.output.append(helper.make_tensor_value_info("c_q", TensorProto.INT8, [1, CHANNELS, 8, 8]))
    kinds = [node.op_type for node in with_fake_quantize(model).graph.node]

    assert kinds.count("QuantizeLinear") == kinds.count("FakeQuantize") == 1


def test_a_float_network_is_copied_unchanged() -> None:
    model = helper.make_model(helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [], []))
    assert with_fake_quantize(model) == model


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_half_types_become_fp32_with_the_values_they_had(kind: int) -> None:
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    weight = np.random.default_rng(0).normal(0, 1, (8, 4)).astype(dtype)
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], "in", to=kind),
        helper.make_node("MatMul", ["h", "w"], ["m"], "product"),
        helper.make_node("Constant", [], ["c"], "c", value=numpy_helper.from_array(np.ones(4, dtype), "c")),
        helper.make_node("Add", ["m", "c"], ["a"], "add"),
        helper.make_node("Cast", ["a"], ["y"], "out", to=TensorProto.FLOAT),
    ]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [2, w]) for n, w in (("x", 8), ("y", 4)))
    graph = helper.make_graph(nodes, "g", [x], [y], [numpy_helper.from_array(weight, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)

    wide = in_fp32(model)

    inferred = onnx.shape_inference.infer_shapes(wide, check_type=True, strict_mode=True)
    assert {v.type.tensor_type.elem_type for v in inferred.graph.value_info} == {TensorProto.FLOAT}
    assert np.array_equal(numpy_helper.to_array(wide.graph.initializer[0]), weight.astype(np.float32))
    assert model.graph.initializer[0].data_type == kind


def test_uint8_with_a_zero_point_agrees_within_one_step(tmp_path: Path) -> None:
    x = np.random.default_rng(0).uniform(-1, 4, (1, CHANNELS, 8, 8)).astype(np.float32)
    expected, found = both(concat_net(("Neg", "Relu"), 0.02, "after", np.uint8(60)), x, tmp_path)

    assert np.abs(found - expected).max() <= 0.02 * 1.001
    assert np.mean(np.abs(found - expected) > 2e-5) < 0.02
