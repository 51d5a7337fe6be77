"""Small networks to rewrite, and what ONNX Runtime says of them."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from engines.in_memory import open_model
from engines.onnx_graph import infer_shapes


@pytest.fixture
def graph():
    """Make a checked network of nodes and constants; the last node's outputs are its own unless others are named."""

    def make(nodes, constants, shape=(1, 3, 8, 8), outputs=None):
        tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
        image = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
        wanted = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs or [nodes[-1].output[0]]
        ]
        made = helper.make_model(
            helper.make_graph(nodes, "net", [image], wanted, tensors), opset_imports=[helper.make_opsetid("", 17)]
        )
        made.ir_version = 8
        made = infer_shapes(made)
        onnx.checker.check_model(made)
        return made

    return make


@pytest.fixture
def answers():
    """What a network gives for an image of noise."""

    def run(network, seed=0):
        shape = [dim.dim_value for dim in network.graph.input[0].type.tensor_type.shape.dim]
        image = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
        return open_model(network).run(None, {"x": image})

    return run
