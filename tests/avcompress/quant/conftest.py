"""A small quantized network that several tests take apart."""

from collections.abc import Iterator

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from avcompress.quant.stages.ptq import quantize
from avcompress.recipe import KeepFloat, Ptq
from avcompress.spec import Artifact, Batch
from engines.in_memory import open_model
from engines.onnx_graph import infer_shapes, name_nodes

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
small (float[1,3,12,12] x) => (float[1,4,12,12] y) {
    a = Conv <pads = [1,1,1,1]> (x, wa, ba)
    r = Relu (a)
    b = Conv <pads = [1,1,1,1]> (r, wb)
    s = Add (b, r)
    y = Conv (s, wy, by)
}
"""
SHAPES = {"wa": (6, 3, 3, 3), "ba": (6,), "wb": (6, 6, 3, 3), "wy": (4, 6, 1, 1), "by": (4,)}


@pytest.fixture(scope="session")
def small_net() -> onnx.ModelProto:
    """Three convolutions a, b and y (named Conv_0, Conv_2, Conv_4), the second with a skip; float."""
    model = parser.parse_model(TEXT)
    rng = np.random.default_rng(0)
    for name, shape in SHAPES.items():
        values = rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
    return infer_shapes(name_nodes(model))


@pytest.fixture(scope="session")
def small_batches() -> list[Batch]:
    """Four images for it."""
    rng = np.random.default_rng(1)
    return [{"x": rng.standard_normal((1, 3, 12, 12)).astype(np.float32)} for _ in range(4)]


@pytest.fixture(scope="session")
def small_artifact(small_net: onnx.ModelProto, small_batches: list[Batch]) -> Artifact:
    """The same with every convolution in INT8."""
    return quantize(Artifact(small_net), Ptq(kind="ptq", keep_float=KeepFloat(head=False)), small_batches)


@pytest.fixture(scope="session")
def parsed():
    """A network from ONNX text and {name: shape or array} of its constants, random where only a shape is given."""

    def make(text, constants, seed=0):
        model = parser.parse_model(text)
        rng = np.random.default_rng(seed)
        for name, given in constants.items():
            values = rng.standard_normal(given) if isinstance(given, tuple) else np.asarray(given)
            model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
        return infer_shapes(name_nodes(model))

    return make


@pytest.fixture(scope="session")
def run():
    """The first output of a network on one image, by ONNX Runtime with graph optimizations off."""

    def first(model, image):
        session = open_model(model)
        return session.run(None, {session.get_inputs()[0].name: image})[0]

    return first


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Let torch use one thread: for small tensors, and beside other tests, several mostly wait for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
