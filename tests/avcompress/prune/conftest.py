"""Networks to prune: both zoos, and small ones written as ONNX text."""

import importlib.util
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper, parser

from avcompress.export import to_onnx
from avcompress.prune import Channel, Coupling, Fixed, Group, Place, channel_groups
from engines.in_memory import open_model
from engines.onnx_graph import copy, infer_shapes, name_nodes


@cache
def _zoo():
    spec = importlib.util.spec_from_file_location("prune_zoo", Path(__file__).parent / "zoo.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def _exported(name, keep_norms):
    return to_onnx(_zoo().build(name), _zoo().SHAPE[2:], keep_norms=keep_norms)


def pytest_generate_tests(metafunc):
    """Parametrize `prunable` over the names of both zoos."""
    if "prunable" in metafunc.fixturenames:
        metafunc.parametrize("prunable", sorted(_zoo().ARCHITECTURES))


@pytest.fixture
def exported():
    """The ONNX export of a network of either zoo by name, its normalization kept where asked to; a copy."""
    return lambda name, keep_norms=False: copy(_exported(name, keep_norms))


@cache
def _coupling(name, keep_norms):
    return channel_groups(_exported(name, keep_norms))


@pytest.fixture
def coupled():
    """What channel_groups finds in such an export; computed once."""
    return lambda name, keep_norms=False: _coupling(name, keep_norms)


@pytest.fixture
def image():
    """What the networks of the zoos take."""
    return np.random.default_rng(0).normal(0, 1, _zoo().SHAPE).astype(np.float32)


@pytest.fixture(scope="session")
def net():
    """A network from the text of its nodes and {name: shape or array} of its constants, random where only a shape.

    Node names are operator and index: Conv_0, Relu_1 ...
    """

    def make(nodes, constants, outputs="float[1,4,8,8] y", x="1,3,8,8", opset=17):
        rng = np.random.default_rng(0)
        head = f'<ir_version: 8, opset_import: ["" : {opset}]> net (float[{x}] x) => ({outputs})'
        model = parser.parse_model(f"{head} {{ {nodes} }}")
        for name, given in constants.items():
            array = rng.standard_normal(given) * 0.5 if isinstance(given, tuple) else np.asarray(given)
            kind = np.int64 if array.dtype.kind == "i" else np.float32
            model.graph.initializer.append(numpy_helper.from_array(array.astype(kind), name))
        return infer_shapes(name_nodes(model))

    return make


@pytest.fixture(scope="session")
def run():
    """All outputs of a network on one image, by ONNX Runtime with graph optimizations off."""

    def outputs(model, image):
        session = open_model(model)
        return session.run(None, {session.get_inputs()[0].name: image})

    return outputs


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def constants():
    """The initializers of a network as arrays by name."""
    return lambda model: {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}


@pytest.fixture(scope="session")
def node_of():
    """A node of a network by name."""

    def find(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
        return next(node for node in model.graph.node if node.name == name)

    return find


# --- a network of two layers with weights by hand, and the group between them

SIZE = 4


def _chain(first, second, norm=None, bias=None) -> onnx.ModelProto:
    """Conv, normalization where `norm` holds scale, shift, mean and variance, Relu, Conv; as 1x1 convolutions."""
    first, second = (np.asarray(w, np.float32) for w in (first, second))
    weights = {"first.weight": first[:, :, None, None], "second.weight": second[:, :, None, None]}
    inputs = ["images", "first.weight"]
    if bias is not None:
        weights["first.bias"] = np.asarray(bias, np.float32)
        inputs.append("first.bias")
    nodes = [helper.make_node("Conv", inputs, ["a"], name="first")]
    if norm is not None:
        names = [f"norm.{part}" for part in ("scale", "shift", "mean", "var")]
        weights |= {name: np.asarray(values, np.float32) for name, values in zip(names, norm, strict=True)}
        nodes.append(helper.make_node("BatchNormalization", ["a", *names], ["b"], name="norm", epsilon=0.0))
    nodes.append(helper.make_node("Relu", ["a" if norm is None else "b"], ["c"], name="relu"))
    nodes.append(helper.make_node("Conv", ["c", "second.weight"], ["output"], name="second"))
    widths = {"images": first.shape[1], "output": second.shape[0]}
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, c, SIZE, SIZE]) for n, c in widths.items()]
    constants = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "chain", values[:1], values[1:], constants)
    return onnx.shape_inference.infer_shapes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    )


def _between(width: int, extra: tuple[str, ...] = (), name: str = "first") -> Coupling:
    """The group of channels between the two layers; `extra` are vectors that belong to them."""
    channels = tuple(
        Channel(
            (
                Place("first.weight", 0, (i,)),
                *(Place(tensor, 0, (i,)) for tensor in extra),
                Place("second.weight", 1, (i,)),
            )
        )
        for i in range(width)
    )
    group = Group(name, ("first",), ("second",), channels)
    return Coupling((group,), (Fixed("second", "it is an output of the network"),), {}, {}, {})


@pytest.fixture(scope="session")
def chain() -> Callable[..., onnx.ModelProto]:
    return _chain


@pytest.fixture(scope="session")
def coupling() -> Callable[..., Coupling]:
    return _between
