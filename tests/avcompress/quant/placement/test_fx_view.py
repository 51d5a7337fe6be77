"""avcompress.quant.placement.fx_view: both front ends lead to the same Q/DQ."""

import sys
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from avcompress.export import to_onnx
from avcompress.onnx_import import import_onnx
from avcompress.quant.placement import fx_view, onnx_view
from avcompress.quant.placement.policy import place
from avcompress.quant.placement.view import GraphView, Placement
from avcompress.recipe import KeepFloat
from engines.onnx_graph import fold_batch_norms
from engines.onnx_load import load_onnx

IMAGE = torch.zeros(1, 3, 64, 64)
CHOICES = [
    (KeepFloat(), "tensorrt"),
    (KeepFloat(head=False, depthwise=False, squeeze_excite=False, attention_split=False), "tensorrt"),
    (KeepFloat(depthwise=True, small_channels=9), "cpu"),
    (KeepFloat(head=False), "cpu"),
]


@pytest.fixture
def loaded(tmp_path):
    """What PTQ quantizes: written, read by load_onnx, batch norms folded."""

    def read(model: onnx.ModelProto) -> onnx.ModelProto:
        path = tmp_path / "model.onnx"
        path.write_bytes(model.SerializeToString())
        return fold_batch_norms(load_onnx(path))

    return read


def keys(view: GraphView) -> dict[str, object]:
    """A name for every operator that both front ends give: its weight, or which of the sums or products it is."""
    sums = [op.name for op in view.ops if op.kind == "Add" and not view.constants.intersection(op.inputs)]
    products = [op.name for op in view.ops if op.kind == "MatMul" and op.weight is None]
    found: dict[str, object] = {name: ("sum", i) for i, name in enumerate(sums)}
    found |= {name: ("product", i) for i, name in enumerate(products)}
    return found | {op.name: op.weight.tensor for op in view.ops if op.weight}


def facts(view: GraphView, placement: Placement) -> dict[str, object]:
    """A placement in terms that do not depend on the front end."""
    key = keys(view)
    channels = {op.weight.tensor: op.channels for op in view.ops if op.weight}
    sites = {s.tensor: frozenset((key[name], index) for name, index in s.edges) for s in placement.activations}
    return {
        "activations": list(sites.values()),
        "weights": [
            (s.tensor, frozenset((key[n], i) for n, i in s.edges), channels[s.tensor]) for s in placement.weights
        ],
        "ties": {frozenset(sites[tensor] for tensor in group) for group in placement.ties},
        "layers": [(key[p.name], p.op, p.precision, p.reason, p.macs) for p in placement.layers],
    }


def assert_same_placement(one: GraphView, other: GraphView, least_sites: int = 1) -> None:
    for keep, rules in CHOICES:
        first, second = (facts(view, place(view, keep, rules)) for view in (one, other))
        for part in first:
            assert first[part] == second[part], (part, keep, rules)
    assert len(place(one, *CHOICES[0]).activations) >= least_sites


def test_a_torch_module_and_its_export_get_the_same_sites(architecture, torch_network, onnx_network, loaded):
    view = onnx_view.graph_view(loaded(onnx_network(architecture)))

    assert_same_placement(view, fx_view.graph_view(torch_network(architecture), IMAGE), least_sites=2)


def test_an_imported_network_gets_the_same_sites_and_names(architecture, onnx_network, loaded):
    model = loaded(onnx_network(architecture))
    one, other = onnx_view.graph_view(model), fx_view.graph_view(import_onnx(model), IMAGE)

    for keep, rules in CHOICES:
        assert place(one, keep, rules) == place(other, keep, rules)


def test_batch_norms_of_an_imported_network_are_folded_in_the_view(onnx_network, loaded):
    """The transposed convolution keeps its normalization in the export."""
    model = onnx_network("transposed_decoder")
    assert "BatchNormalization" in {node.op_type for node in model.graph.node}

    view = fx_view.graph_view(import_onnx(model), IMAGE)

    assert_same_placement(onnx_view.graph_view(loaded(model)), view)
    assert "BatchNormalization" not in {op.kind for op in view.ops}


def test_the_ties_of_the_zoo_are_not_empty(torch_network):
    """Else the comparison above would compare nothing."""
    placements = [place(fx_view.graph_view(torch_network(n), IMAGE), KeepFloat()) for n in ("c2f", "unet", "fpn_pan")]

    assert all(placement.ties for placement in placements)


class Spellings(nn.Module):
    """Operators in their many spellings."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 1)
        self.bn, self.d = nn.BatchNorm2d(16), nn.Conv2d(16, 24, 3, padding=1, padding_mode="reflect")
        self.scale = nn.Parameter(torch.full((24, 1, 1), 0.5))
        self.out, self.drop = nn.Linear(24, 4), nn.Dropout()

    def forward(self, image):
        x = F.silu(self.a(image))
        x = torch.add(x, self.bn(self.b(x)).relu_())
        x += self.drop(F.gelu(self.c(x), approximate="tanh"))
        y = (1 + self.d(x)) * self.scale
        y = y * torch.sigmoid(y.mean((2, 3), keepdim=True))
        halves = torch.stack(y.unbind(1)[:24], 1).clamp(min=-3.0)[:, :, ::2, 1:]
        pooled = F.adaptive_max_pool2d(F.pad(halves, [1, 1]), 1).flatten(1)
        return {"scores": self.out(pooled.view(pooled.size(0), -1)), "maps": F.glu(halves, 1).square().sum(1)}


def test_other_spellings_get_the_same_sites(loaded):
    module = Spellings().eval()
    view = onnx_view.graph_view(loaded(to_onnx(module, (32, 32))))

    assert_same_placement(view, fx_view.graph_view(module, torch.zeros(1, 3, 32, 32)), least_sites=3)


class Fused(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.qkv = nn.Conv2d(3, 16, 4, 4), nn.Linear(16, 48, bias=False)

    def forward(self, image):
        tokens = self.conv(image).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(F.normalize(tokens, dim=-1)).chunk(3, -1)
        return F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])


def test_fused_attention_is_that_of_the_export(loaded):
    module = Fused().eval()
    view = onnx_view.graph_view(loaded(to_onnx(module, (16, 16))))

    assert_same_placement(view, fx_view.graph_view(module, torch.zeros(1, 3, 16, 16)))


class Decoder(nn.Module):
    """Buffers that come first in a sum, a pool as large as its input's shape, a branch that no image reaches."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.gate = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 8, 1), nn.Conv2d(16, 16, 1)
        self.norm, self.query = nn.LayerNorm(8), nn.Linear(8, 8)
        self.queries, self.anchors = nn.Parameter(torch.rand(5, 8)), nn.Parameter(torch.rand(2, 8))
        self.register_buffer("grid", torch.rand(1, 8, 1, 1))

    def forward(self, image):
        x = F.relu(self.a(image))
        x = self.b(x * torch.sigmoid(self.gate(F.avg_pool2d(x, x.size()[2:]))))
        x = ((self.grid - x) * 2 + self.anchors[1].view(1, 8, 1, 1)).flatten(2)
        return self.query(self.norm(self.queries)) @ x


def test_what_depends_on_constants_alone_is_no_operator(loaded):
    module = Decoder().eval()
    model = loaded(to_onnx(module, (64, 64)))
    view = onnx_view.graph_view(model)

    assert [op.kind for op in view.ops if op.name.startswith(("/norm", "/query"))] == []
    assert_same_placement(view, fx_view.graph_view(module, IMAGE))
    assert_same_placement(view, fx_view.graph_view(import_onnx(model), IMAGE))


def test_an_unknown_function_is_opaque():
    class Rolls(nn.Module):
        def forward(self, x):
            return torch.roll(x, 1, 0)

    (op,) = fx_view.graph_view(Rolls(), IMAGE).ops

    assert op.kind == "torch.roll"
    assert len(op.inputs) == 1


def test_a_view_by_hand():
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8)
    )

    view = fx_view.graph_view(module, torch.zeros(1, 3, 6, 6))

    assert [(op.name, op.kind, op.inputs, op.outputs) for op in view.ops] == [
        ("_0", "Conv", ("input_1", "0.weight", ""), ("_1",)),
        ("_2", "Relu", ("_1",), ("_2",)),
        ("_3", "Conv", ("_2", "3.weight", "3.bias"), ("_3",)),
    ]
    first, _, second = view.ops
    assert (first.macs, first.channels, first.kernel, first.depthwise) == (8 * 36 * 27, (3, 8), (3, 3), False)
    assert (second.macs, second.channels, second.groups, second.depthwise) == (8 * 16 * 9, (8, 8), 8, True)
    assert view.outputs == ("_3",)
    assert view.constants == {"0.weight", "3.weight", "3.bias"}


def test_a_normalization_whose_convolution_is_read_elsewhere_stays():
    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x):
            y = self.conv(x)
            return self.bn(y) + y

    assert [op.kind for op in fx_view.graph_view(Reads(), IMAGE).ops] == ["Conv", "BatchNormalization", "Add"]


def test_a_half_precision_weight_is_an_obstacle():
    view = fx_view.graph_view(nn.Conv2d(3, 4, 1).half(), torch.zeros(1, 3, 4, 4, dtype=torch.float16))

    assert view.ops[0].obstacle == "weight of type FLOAT16"


@pytest.mark.slow
def test_yolox_nano_gets_the_same_sites(data_root):
    model = load_onnx(data_root / "models" / "yolox_nano.onnx")
    one = onnx_view.graph_view(model)
    other = fx_view.graph_view(import_onnx(model), torch.zeros(1, 3, 416, 416))

    for keep, rules in CHOICES:
        assert place(one, keep, rules) == place(other, keep, rules)


def test_espnet_gets_the_same_sites(monkeypatch, loaded):
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parents[4] / "examples"), *sys.path])
    from espnet import espnet

    module = espnet().eval()
    view = onnx_view.graph_view(loaded(to_onnx(module, (64, 64))))

    assert_same_placement(view, fx_view.graph_view(module, IMAGE), least_sites=50)
