"""A coupling and the widths of a chain of convolutions, made by hand."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from avcompress.prune.groups import Channel, Coupling, Group, Place


@pytest.fixture(scope="session")
def chain():
    """Makes chains."""
    return _chain


def _chain(channels=(16, 24, 8), size=8):
    """Convolutions one after the other, each with ReLU; all but the last can be pruned. Network and coupling."""
    nodes, weights, groups, labels, shapes, atoms, before, name, atom = [], [], [], {}, {}, {}, 3, "x", 1
    shapes["x"], labels["x"] = (1, 3, size, size), np.zeros((1, 1, 1, 1), dtype=np.int64)
    for index, width in enumerate(channels):
        layer, made = f"conv{index}", f"y{index}"
        weight = np.ones((width, before, 3, 3), dtype=np.float32)
        weights.append(numpy_helper.from_array(weight, f"w{index}"))
        nodes.append(helper.make_node("Conv", [name, f"w{index}"], [f"c{index}"], name=layer, pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{index}"], [made], name=f"relu{index}"))
        last = index == len(channels) - 1
        numbers = np.zeros(width, dtype=np.int64) if last else np.arange(atom, atom + width)
        for tensor in (f"c{index}", made):
            shapes[tensor] = (1, width, size, size)
            labels[tensor] = np.zeros((1, 1, 1, 1), dtype=np.int64) if last else numbers.reshape(1, -1, 1, 1)
        if not last:
            parts = tuple(Channel((Place(f"w{index}", 0, (c,)), Place(f"w{index + 1}", 1, (c,)))) for c in range(width))
            groups.append(Group(layer, (layer,), (f"conv{index + 1}",), parts))
            atoms[layer] = tuple(numbers.tolist())
        before, name, atom = width, made, atom + width
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, size, size])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, channels[-1], size, size])],
        weights,
    )
    network = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    network.ir_version = 8
    onnx.checker.check_model(network)
    return network, Coupling(tuple(groups), (), shapes, labels, atoms)
