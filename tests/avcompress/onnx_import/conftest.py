"""One operator in a network of its own, imported and held against ONNX Runtime."""

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import helper, numpy_helper

from avcompress.onnx_import import import_onnx

TOLERANCE = 1e-5


def reference(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """What ONNX Runtime gives, graph optimizations off."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def model_of(nodes, feeds, constants, outputs, opset=17):
    """A model of these nodes; `feeds` and `constants` are arrays by name."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for k, v in feeds.items()],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [
            v if isinstance(v, onnx.TensorProto) else numpy_helper.from_array(np.asarray(v), k)
            for k, v in constants.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    for value in inferred.graph.output:  # functions of other operators: nothing is inferred for them
        value.type.tensor_type.elem_type = value.type.tensor_type.elem_type or onnx.TensorProto.FLOAT
    return inferred


def assert_same(
    model: onnx.ModelProto, feeds: dict[str, np.ndarray], tolerance: float = TOLERANCE
) -> torch.fx.GraphModule:
    """Import, run, compare; relative to the largest magnitude."""
    module = import_onnx(model)
    with torch.no_grad():
        found = module(*(torch.from_numpy(v.copy()) for v in feeds.values()))
    for got, expected in zip(found if isinstance(found, tuple) else (found,), reference(model, feeds), strict=True):
        assert tuple(got.shape) == expected.shape
        finite = np.where(np.isfinite(expected), np.abs(expected.astype(np.float64)), 0)
        scale = max(float(finite.max(initial=0)), 1e-6)
        np.testing.assert_allclose(got.numpy(), expected, rtol=0, atol=tolerance * scale)
    return module


@pytest.fixture(scope="session")
def network() -> Callable[..., onnx.ModelProto]:
    """model_of."""
    return model_of


@pytest.fixture(scope="session")
def agree() -> Callable[..., torch.fx.GraphModule]:
    """assert_same: the imported network gives the numbers of ONNX Runtime."""
    return assert_same


@pytest.fixture(scope="session")
def check() -> Callable[..., torch.fx.GraphModule]:
    """check(op, *inputs, opset=17, **attributes): arrays are fed, ("c", array) is constant, None left out."""

    def run(op, *inputs, outputs=1, opset=17, tolerance=TOLERANCE, domain="", **attributes):
        feeds, constants, names = {}, {}, []
        for index, item in enumerate(inputs):
            name = "" if item is None else f"i{index}"
            if isinstance(item, tuple):
                constants[name] = item[1]
            elif item is not None:
                feeds[name] = np.asarray(item)
            names.append(name)
        made = [f"o{i}" for i in range(outputs)]
        node = helper.make_node(op, names, made, "node", domain=domain, **attributes)
        return assert_same(model_of([node], feeds, constants, made, opset), feeds, tolerance)

    return run


@pytest.fixture
def x() -> np.ndarray:
    """(1, 4, 7, 9) float32."""
    return np.random.default_rng(0).normal(0, 2, (1, 4, 7, 9)).astype(np.float32)
