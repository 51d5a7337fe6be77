"""Networks of one layer and of a few, with random weights, and a clock that counts multiply-accumulates."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from engines.in_memory import open_model
from engines.onnx_graph import infer_shapes, macs, name_nodes


def model_of(nodes, constants, image, output="y"):
    """A network from nodes and named arrays that takes `x` of this shape."""
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, image)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return infer_shapes(name_nodes(model))


@pytest.fixture(scope="session")
def network():
    """`network(nodes, constants, image)`: see `model_of`."""
    return model_of


@pytest.fixture(scope="session")
def conv_net():
    """`conv_net(weight, bias, size=..., **attributes)`: one convolution named `conv`, of `w` and `b`, from x to y."""

    def make(weight, bias=None, size=(9, 8), images=1, **attributes):
        names = ["x", "w"] + (["b"] if bias is not None else [])
        constants = {"w": weight} | ({"b": bias} if bias is not None else {})
        channels = weight.shape[1] * attributes.get("group", 1)
        return model_of(
            [helper.make_node("Conv", names, ["y"], "conv", **attributes)], constants, (images, channels, *size)
        )

    return make


@pytest.fixture(scope="session")
def run():
    """The first output of a network on one input, by ONNX Runtime with graph optimizations off."""

    def first(model, x):
        return open_model(model).run(None, {"x": x.astype(np.float32)})[0]

    return first


@pytest.fixture(scope="session")
def mac_clock():
    """A clock that says a nanosecond for every multiply-accumulate."""

    def clock(networks):
        return tuple(sum(macs(infer_shapes(each)).values()) / 1e6 for each in networks)

    return clock


@pytest.fixture(scope="session")
def small_net():
    """Four convolutions with ReLU between, one of them depthwise, their weights of low rank; and its images."""
    rng = np.random.default_rng(0)

    def low_rank(m, c, k, rank):
        weight = rng.standard_normal((m, rank)) @ rng.standard_normal((rank, c * k * k)) / np.sqrt(rank * c * k * k)
        return weight.reshape(m, c, k, k)

    conv = helper.make_node
    nodes = [
        conv("Conv", ["x", "a.weight", "a.bias"], ["a"], "a", pads=[1] * 4),
        conv("Relu", ["a"], ["ra"], "ra"),
        conv("Conv", ["ra", "d.weight"], ["d"], "d", pads=[1] * 4, group=32),
        conv("Relu", ["d"], ["rd"], "rd"),
        conv("Conv", ["rd", "p.weight"], ["p"], "p"),
        conv("Relu", ["p"], ["rp"], "rp"),
        conv("Conv", ["rp", "q.weight"], ["y"], "q", pads=[1] * 4, strides=[2, 2]),
    ]
    constants = {
        "a.weight": rng.standard_normal((32, 3, 3, 3)) / 5,
        "a.bias": rng.standard_normal(32) / 5,
        "d.weight": rng.standard_normal((32, 1, 3, 3)) / 3,
        "p.weight": low_rank(32, 32, 1, 6),
        "q.weight": low_rank(24, 32, 3, 6),
    }
    return model_of(nodes, constants, (1, 3, 16, 16))


@pytest.fixture(scope="session")
def two_branches():
    """`two_branches(weight, (f, g), image)`: y = f p(x) + g q(x), p and q convolutions of 1x1 of the same weight."""

    def make(weight, factors, image):
        nodes = [
            helper.make_node("Conv", ["x", "p.weight"], ["p"], "p"),
            helper.make_node("Conv", ["x", "q.weight"], ["q"], "q"),
            helper.make_node("Mul", ["p", "f"], ["fp"], "fp"),
            helper.make_node("Mul", ["q", "g"], ["gq"], "gq"),
            helper.make_node("Add", ["fp", "gq"], ["y"], "y"),
        ]
        kernel = np.asarray(weight)[:, :, None, None]
        return model_of(nodes, {"p.weight": kernel, "q.weight": kernel, "f": factors[0], "g": factors[1]}, image)

    return make


@pytest.fixture(scope="session")
def small_batches():
    rng = np.random.default_rng(1)
    return [{"x": rng.standard_normal((1, 3, 16, 16)).astype(np.float32)} for _ in range(6)]


def constant(model: onnx.ModelProto, name: str) -> np.ndarray:
    """An initializer's value."""
    return numpy_helper.to_array(next(item for item in model.graph.initializer if item.name == name))


@pytest.fixture(scope="session", name="constant")
def constant_of():
    return constant
