"""Small networks that teach and learn."""

from collections.abc import Callable, Iterator

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper, parser
from torch import Tensor, nn

from engines.onnx_graph import infer_shapes, name_nodes

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
small (float[1,3,16,16] x) => (float[1,4,16,16] y) {
    a = Conv <pads = [1,1,1,1]> (x, wa, ba)
    n = BatchNormalization (a, gamma, beta, mean, var)
    r = Relu (n)
    b = Conv <pads = [1,1,1,1]> (r, wb)
    s = Add (b, r)
    y = Conv (s, wy, by)
}
"""
SHAPES = {"wa": (6, 3, 3, 3), "ba": (6,), "wb": (6, 6, 3, 3), "wy": (4, 6, 1, 1), "by": (4,)}
MEAN, VARIANCE = np.linspace(-1, 1, 6, dtype=np.float32), np.linspace(0.5, 2, 6, dtype=np.float32)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Two threads that wait for each other on a busy machine take many times as long."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Net(nn.Module):
    """(N, 3, H, W) images to (N, 4, H / 2, W / 2) logits, through features of `width` channels."""

    def __init__(self, width: int = 6, seed: int = 0, stride: int = 2) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            self.first = nn.Conv2d(3, width, 3, stride, 1)
            self.norm = nn.BatchNorm2d(width)
            self.act = nn.ReLU()
            self.second = nn.Sequential(nn.Conv2d(width, width, 3, 1, 1), nn.ReLU())
            self.head = nn.Conv2d(width, 4, 1)

    def forward(self, images: Tensor) -> Tensor:
        x = self.act(self.norm(self.first(images)))
        return self.head(x + self.second(x))

    def targets(self, samples):
        return torch.zeros(len(samples))

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.mean(dim=(1, 2, 3)) - targets).square().mean()


@pytest.fixture(scope="session")
def small_onnx() -> onnx.ModelProto:
    """Convolutions a (with a batch normalization n), b (with a skip) and y."""
    model = parser.parse_model(TEXT)
    rng = np.random.default_rng(0)
    values = {name: rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:])) for name, shape in SHAPES.items()}
    values |= {"gamma": np.ones(6), "beta": np.zeros(6), "mean": MEAN, "var": VARIANCE}
    for name, value in values.items():
        model.graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))
    return infer_shapes(name_nodes(model))


@pytest.fixture(scope="session")
def net() -> type[Net]:
    """Builds a small network: Net(width, seed, stride)."""
    return Net


@pytest.fixture(scope="session")
def images() -> Callable[..., Tensor]:
    """Makes a batch of noise."""

    def make(count: int = 2, seed: int = 0, size: int = 16) -> Tensor:
        return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))

    return make
