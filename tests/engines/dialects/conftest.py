"""Networks from ONNX text, quantized by hand, and ONNX Runtime as the oracle."""

import numpy as np
import onnxruntime
import pytest
from onnx import numpy_helper, parser

from avcompress.spec import QuantParams
from engines.onnx_graph import check, infer_shapes, initializers, name_nodes
from engines.ort_dialect import with_float_kernels
from engines.qdq import insert_qdq


def network(body, constants=None, shape=(1, 4, 8, 8), outputs=("y",), opset=17, stated=None):
    """A model from ONNX text: `body` computes the outputs from x and the named constants; `stated`: their shape."""
    header = f'<ir_version: 8, opset_import: ["" : {opset}]>'
    dims = ",".join(map(str, shape))
    results = ", ".join(f"float[] {name}" for name in outputs)
    model = parser.parse_model(f"{header} net (float[{dims}] x) => ({results}) {{ {body} }}")
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
        for size in stated or ():
            output.type.tensor_type.shape.dim.add(dim_value=size)
    for name, value in (constants or {}).items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return check(name_nodes(infer_shapes(model)))


def per_channel(weight, axis=0):
    amax = np.abs(np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)).max(1)
    return QuantParams(tuple((amax / 127).tolist()), (0,) * len(amax), "int8", axis)


def quantize(model, scales, weights=None):
    """Q/DQ on the given activations wherever a layer with these weights reads them, and on its weights.

    scales: by activation; weights: the parameters by weight, else per channel of axis 0.
    """
    constants = {name: numpy_helper.to_array(tensor) for name, tensor in initializers(model).items()}
    edges, qparams = [], {name: QuantParams((scale,), (0,)) for name, scale in scales.items()}
    for node in model.graph.node:
        if node.op_type in {"Conv", "ConvTranspose", "Gemm", "MatMul"} and node.input[0] in scales:
            edges += [(node.name, 0), (node.name, 1)]
            axis = 1 if node.op_type in {"ConvTranspose", "MatMul"} else 0
            given = (weights or {}).get(node.input[1])
            qparams[node.input[1]] = given or per_channel(constants[node.input[1]], axis)
    return insert_qdq(model, edges, qparams)


def run(model, x, outputs=None):
    """What ONNX Runtime computes, graph optimizations off."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    network = with_float_kernels(model).SerializeToString()
    session = onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])
    return session.run(outputs, {session.get_inputs()[0].name: x})


@pytest.fixture(scope="session")
def net():
    """network: a model from ONNX text."""
    return network


@pytest.fixture(scope="session")
def with_scales():
    """quantize: Q/DQ on activations with these scales, and on the weights beside them."""
    return quantize


@pytest.fixture(scope="session")
def ort():
    """run: what ONNX Runtime computes."""
    return run
