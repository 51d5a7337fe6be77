"""avcompress.quant.tracing: user code becomes a graph, whatever it asks of shapes."""

import pytest
import torch
from torch import nn

from avcompress.quant.tracing import FAKE, trace
from avcompress.spec import ModelError

IMAGE = torch.zeros(1, 3, 8, 8)


class Asks(nn.Module):
    """Python code that wants numbers: chunk in a loop, len, an if on a shape, range, int."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x):
        parts = list(self.conv(x).chunk(2, 1))
        n, c, h, w = x.shape
        if h > 4 and len(parts) == 2:
            parts.append(parts[-1] * float(c))
        for i in range(len(parts)):
            parts[i] = parts[i] + int(w / 4)
        return torch.cat([p.reshape(n, -1) for p in parts], 1)


def test_code_that_asks_for_shapes_is_traced_and_still_takes_any_batch():
    module = Asks()
    traced = trace(module, IMAGE)
    images = torch.randn(5, 3, 8, 8)

    assert torch.equal(traced(images), module(images))


def test_every_architecture_computes_the_same_when_traced(architecture, torch_network):
    module = torch_network(architecture)
    traced = trace(module, torch.zeros(1, 3, 64, 64))
    images = torch.randn(2, 3, 64, 64)

    with torch.no_grad():
        pairs = zip(
            *(out if isinstance(out, tuple) else (out,) for out in (traced(images), module(images))), strict=True
        )
        assert all(torch.equal(a, b) for a, b in pairs)


def test_every_node_knows_its_shape():
    traced = trace(Asks(), IMAGE)

    shapes = [tuple(n.meta[FAKE].shape) for n in traced.graph.nodes if isinstance(n.meta.get(FAKE), torch.Tensor)]
    assert shapes[:4] == [(1, 3, 8, 8), (1, 4, 8, 8), (1, 2, 8, 8), (1, 2, 8, 8)]


def test_the_parameters_are_shared_and_the_mode_is_kept():
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout())
    module[1].eval()

    traced = trace(module, IMAGE)

    assert next(traced.parameters()) is module[0].weight
    assert [part.training for part in module.modules()] == [True, True, False, True]


class Branches(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class Converts(nn.Module):
    def forward(self, x):
        return x * float(x.mean())


@pytest.mark.parametrize("module", [Branches(), Converts()], ids=["if", "float"])
def test_control_flow_on_values_is_refused_in_one_line(module):
    with pytest.raises(ModelError, match=r"expected control flow that depends on shapes .*; use torch.where") as error:
        trace(module, IMAGE)

    assert "\n" not in str(error.value)


def test_code_that_fails_is_named():
    class Fails(nn.Module):
        def forward(self, x):
            return x.reshape(7, 7)

    with pytest.raises(ModelError, match=r"^Fails: expected a module that torch.fx can trace, got RuntimeError"):
        trace(Fails(), IMAGE)
