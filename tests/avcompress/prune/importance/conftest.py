"""A network of two layers with weights by hand, and the group between them."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from avcompress.prune import Channel, Coupling, Fixed, Group, Place

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


def _coupling(width: int, extra: tuple[str, ...] = (), name: str = "first") -> Coupling:
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
    return _coupling
