"""avcompress.quant.learning.fake_quant: the arithmetic of ONNX, and agreement with ONNX Runtime tensor by tensor."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper
from torch import fx, nn

from avcompress.export import to_onnx
from avcompress.onnx_import import import_onnx
from avcompress.quant.learning.fake_quant import (
    FakeQuantize,
    fake_quantize,
    fake_quantize_fp8,
    fold_batch_norms,
    insert_fake_quant,
)
from avcompress.quant.placement import fx_view, onnx_view
from avcompress.quant.placement.policy import place
from avcompress.quant.placement.view import Placement, Site
from avcompress.quant.tracing import trace
from avcompress.recipe import KeepFloat
from avcompress.spec import QuantParams
from engines import onnx_graph
from engines.onnx_load import load_onnx
from engines.qdq import dequantize_array, insert_qdq, quantize_array

EVERYTHING = KeepFloat(head=False, depthwise=False, squeeze_excite=False)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# --- the arithmetic


@given(x=st.floats(-12, 12, width=32), zero_point=st.integers(-128, 127))
def test_error_is_at_most_half_a_step_inside_the_range(x, zero_point):
    low, high = (-128 - zero_point) * 0.1, (127 - zero_point) * 0.1
    x = torch.tensor(min(max(x, low), high))

    y = fake_quantize(x, torch.tensor(0.1), torch.tensor(float(zero_point)), -128, 127)

    assert abs(y - x) <= 0.05 + 1e-5


def test_ties_go_to_even_before_the_zero_point_is_added():
    """0.5, 1.5 and 2.5 steps round to 0, 2 and 2, whatever the zero point; shifting first would give 1, 1 and 3."""
    x = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5])

    y = fake_quantize(x, torch.tensor(1.0), torch.tensor(3.0), -128, 127)

    assert y.tolist() == [0, 2, 2, 0, -2]


def test_the_gradient_passes_in_range_and_stops_outside():
    x = torch.tensor([-13.5, -1.0, 0.26, 12.9], requires_grad=True)

    fake_quantize(x, torch.tensor(0.1), torch.tensor(0.0), -128, 127).sum().backward()

    assert x.grad.tolist() == pytest.approx([0, 1, 1, 0])


FORMATS = [
    QuantParams((0.1,), (0,)),
    QuantParams((0.07,), (-11,), "uint8"),
    QuantParams((0.5,), (3,), "int4"),
    QuantParams((0.02,), (0,), "float8e4m3fn"),
    QuantParams((0.1, 0.2, 0.05, 0.4), (0, 3, -5, 0), "int8", 0),
    QuantParams((0.01, 0.02, 0.03, 0.04, 0.05, 0.06), (0,) * 6, "float8e4m3fn", 1),
    QuantParams(tuple(0.1 * n for n in range(1, 13)), (0,) * 12, "int4", 0, 2),
    QuantParams(tuple(0.1 * n for n in range(1, 9)), (0,) * 8, "int8", 1, 4),
]


@pytest.mark.parametrize("params", FORMATS, ids=str)
def test_every_format_gives_the_numbers_that_are_stored(params):
    """The oracle is the NumPy arithmetic that Q/DQ networks are made with."""
    values = np.random.default_rng(0).normal(0, 4, (4, 6)).astype(np.float32)
    values[0, :3] = (1e4, -1e4, 0)

    found = FakeQuantize(params, values.shape)(torch.from_numpy(values))

    assert np.array_equal(found.numpy(), dequantize_array(quantize_array(values, params), params))


@given(st.floats(-600, 600, width=32))
def test_fp8_is_the_nearest_value_of_its_format(x):
    found = fake_quantize_fp8(torch.tensor(x), torch.tensor(0.5)).item()

    assert found == float(np.float32(np.clip(x / 0.5, -448, 448)).astype(ml_dtypes.float8_e4m3fn)) * 0.5


def test_what_is_on_the_grid_stays_there():
    module = FakeQuantize(QuantParams((0.1, 0.3), (0, 5), "int8", 1))
    once = module(torch.randn(3, 2, 4))

    assert torch.equal(module(once), once)


def test_scales_are_part_of_the_state():
    module = FakeQuantize(QuantParams((0.1, 0.3), (0, 5), "int8", 1))

    assert {name: value.shape for name, value in module.state_dict().items()} == {"scale": (2,), "zero_point": (2,)}
    assert "int8, axis=1, scales=2" in repr(module)


# --- into a graph


@dataclass(frozen=True)
class Quantized:
    """One network in both runtimes, and what ONNX Runtime computes at every activation site."""

    model: onnx.ModelProto
    qdq: onnx.ModelProto
    placement: Placement
    qparams: Mapping[str, QuantParams]
    dequantized: Mapping[str, str]
    reference: Mapping[str, np.ndarray]

    @property
    def sites(self) -> tuple[Site, ...]:
        return (*self.placement.activations, *self.placement.weights)


def run(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray], tensors: list[str]) -> dict[str, np.ndarray]:
    """The tensors by ONNX Runtime, graph optimizations off."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    wanted = [t for t in tensors if t not in feeds]
    made = onnx_graph.with_outputs(model, wanted).SerializeToString()
    found = ort.InferenceSession(made, options, providers=["CPUExecutionProvider"]).run(wanted, dict(feeds))
    return {**dict(zip(wanted, found, strict=True)), **{t: feeds[t] for t in tensors if t in feeds}}


def chosen_params(model, placement, feeds, symmetric):
    """Ranges from the extremes of one image; of a weight, by channel."""
    values = run(model, feeds, [site.tensor for site in placement.activations])
    found = {name: activation_params(array, symmetric) for name, array in values.items()}
    constants = onnx_graph.initializers(model)
    for site in placement.weights:
        weight = numpy_helper.to_array(constants[site.tensor])
        others = tuple(axis for axis in range(weight.ndim) if axis != site.axis)
        scales = np.maximum(np.abs(weight).max(others) / np.float32(127), np.float32(1e-12))
        found[site.tensor] = QuantParams(tuple(map(float, scales)), (0,) * len(scales), "int8", site.axis)
    return found


def activation_params(values, symmetric):
    if symmetric:
        return QuantParams((float(np.float32(np.abs(values).max() / 127)),), (0,))
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    scale = float(np.float32((high - low) / 255))
    return QuantParams((scale,), (round(-128 - low / scale),))


def quantized(model, feeds, keep=EVERYTHING, rules="cpu", symmetric=True, ranges=None) -> Quantized:
    model = onnx_graph.fold_batch_norms(model)
    placement = place(onnx_view.graph_view(model), keep, rules)
    qparams = chosen_params(model, placement, ranges or feeds, symmetric)
    edges = [edge for site in (*placement.activations, *placement.weights) for edge in site.edges]
    qdq = insert_qdq(model, edges, qparams)
    producer = {output: node for node in qdq.graph.node for output in node.output}
    dequantized = {
        producer[node.input[0]].input[0]: node.output[0]
        for node in qdq.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in producer
    }
    found = run(qdq, feeds, list(dequantized.values()))
    reference = {tensor: found[output] for tensor, output in dequantized.items()}
    return Quantized(model, qdq, placement, qparams, dequantized, reference)


class Watch(fx.Interpreter):
    """Runs a module, keeps every fake-quantized activation; with `forced`, goes on from ONNX Runtime's value."""

    def __init__(self, module, reference, tensor_of, forced):
        super().__init__(module)
        self.reference, self.tensor_of, self.forced = reference, tensor_of, forced
        self.found = {}

    def run_node(self, n):
        value = super().run_node(n)
        tensor = self.tensor_of(n)
        if tensor not in self.reference:
            return value
        self.found[tensor] = value.numpy()
        return torch.from_numpy(self.reference[tensor]) if self.forced else value


def inserted(case: Quantized):
    """The imported float network with FakeQuantize modules, and which tensor a node of it gives on the grid."""
    module = insert_fake_quant(import_onnx(case.model), case.sites, case.qparams)
    return module, lambda node: node.meta["onnx"][1][0] if node.op == "call_module" else None


def imported(case: Quantized):
    """The imported Q/DQ network, likewise."""
    tensor = {output: name for name, output in case.dequantized.items()}
    return import_onnx(case.qdq), lambda node: tensor.get(node.meta.get("onnx", ("", [""]))[1][0])


def differences(case: Quantized, feeds, ways, forced) -> dict[str, np.ndarray]:
    """How many steps apart the two runtimes are, value by value, at every activation site."""
    module, tensor_of = ways(case)
    watch = Watch(module, case.reference, tensor_of, forced)
    with torch.no_grad():
        watch.run(*(torch.from_numpy(array) for array in feeds.values()))
    assert watch.found.keys() == case.reference.keys()
    return {
        tensor: np.rint(np.abs(found.astype(np.float64) - case.reference[tensor]) / case.qparams[tensor].scale[0])
        for tensor, found in watch.found.items()
    }


def image(*shape, seed=3):
    return {"images": np.random.default_rng(seed).normal(0, 1, shape or (1, 3, 64, 64)).astype(np.float32)}


@pytest.mark.parametrize("ways", [inserted, imported])
@pytest.mark.parametrize("symmetric", [True, False])
def test_torch_and_onnx_runtime_agree_within_one_step(architecture, onnx_network, ways, symmetric):
    """The whole network runs in both, each on its own values; every quantized tensor is compared."""
    case = quantized(onnx_network(architecture), image(), symmetric=symmetric)

    steps = differences(case, image(), ways, forced=False)

    assert max(array.max() for array in steps.values()) <= 1
    assert np.mean([(array > 0).mean() for array in steps.values()]) < 1e-3


def test_a_wrong_scale_would_be_seen(onnx_network):
    """The comparison above can fail."""
    case = quantized(onnx_network("residual"), image())
    name = case.placement.activations[2].tensor
    wrong = {**case.qparams, name: QuantParams((case.qparams[name].scale[0] / 2,), (0,))}
    broken = Quantized(case.model, case.qdq, case.placement, wrong, case.dequantized, case.reference)

    steps = differences(broken, image(), inserted, forced=True)

    assert steps[name].max() > 1
    assert max(array.max() for tensor, array in steps.items() if tensor != name) <= 1


def test_a_traced_module_gives_what_its_quantized_export_gives(architecture, torch_network, onnx_network):
    """From torch: trace, fold, place, quantize; from ONNX: the same stages, on the export."""
    case = quantized(onnx_network(architecture), image())
    data = torch.from_numpy(image()["images"])
    module = fold_batch_norms(trace(torch_network(architecture), data))
    placement = place(fx_view.graph_view(module, data), EVERYTHING, "cpu")
    pairs = zip(placement.activations, case.placement.activations, strict=True)
    qparams = {mine.tensor: case.qparams[theirs.tensor] for mine, theirs in pairs}
    for mine, theirs in zip(placement.weights, case.placement.weights, strict=True):
        params = case.qparams[theirs.tensor]
        qparams[mine.tensor] = QuantParams(params.scale, params.zero_point, params.dtype, mine.axis)

    with torch.no_grad():
        found = insert_fake_quant(module, (*placement.activations, *placement.weights), qparams)(data)

    expected = run(case.qdq, image(), [output.name for output in case.qdq.graph.output]).values()
    for got, want in zip(found if isinstance(found, tuple) else (found,), expected, strict=True):
        # Where a value lies on a tie a step may differ, and a few of the outputs with it.
        assert np.mean(np.abs(got.numpy() - want) > 1e-4 * np.abs(want).max()) < 0.01


def test_insertion_leaves_the_module_and_its_parameter_names_alone():
    module = trace(
        nn.Sequential(nn.Conv2d(3, 4, 1, padding_mode="reflect"), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2)),
        torch.zeros(1, 3, 4, 4),
    )
    before = module.code
    placement = place(fx_view.graph_view(module, torch.zeros(1, 3, 4, 4)), KeepFloat(head=False))
    sites = (*placement.activations, *placement.weights)
    qparams = {s.tensor: QuantParams((0.1,), (0,)) for s in sites}

    new = insert_fake_quant(module, sites, qparams)

    assert module.code == before
    names = {name for name in new.state_dict() if not name.startswith("fake_quant.")}
    assert names == set(module.state_dict())
    new(torch.randn(2, 3, 4, 4)).sum().backward()
    assert all(parameter.grad is not None for parameter in new.parameters())


def test_a_tensor_read_by_two_layers_is_quantized_once_and_others_stay_float():
    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

        def forward(self, x):
            return self.a(x) + self.b(x) + x

    module = trace(Reads(), torch.zeros(1, 3, 4, 4))
    new = insert_fake_quant(module, [Site("x", (("a", 0), ("b", 0)))], {"x": QuantParams((0.1,), (0,))})

    (made,) = (node for node in new.graph.nodes if str(node.target).startswith("fake_quant."))
    assert [user.name for user in made.users] == ["a", "b"]
    assert sorted(user.name for user in next(iter(new.graph.nodes)).users) == ["add_1", made.name]


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
@pytest.mark.parametrize("affine", [True, False])
def test_folding_changes_no_number(groups, kind, affine):
    module = nn.Sequential(kind(4, 6, 3, groups=groups, bias=affine), nn.BatchNorm2d(6, affine=affine)).eval()
    nn.init.normal_(module[1].running_mean)
    nn.init.uniform_(module[1].running_var, 0.5, 2)
    data = torch.randn(2, 4, 5, 5)

    folded = fold_batch_norms(trace(module, data))

    assert [node.target for node in folded.graph.nodes if node.op == "call_module"] == ["0"]
    torch.testing.assert_close(folded(data), module(data), rtol=1e-5, atol=1e-5)


# --- real networks on real images


@pytest.mark.slow
@pytest.mark.parametrize("ways", [inserted, imported])
def test_yolox_nano_agrees_within_one_step_layer_by_layer(data_root, ways):
    """Each layer gets ONNX Runtime's values. Left to itself, the network does not: see the next test."""
    first, second = (yolox_image(path) for path in sorted((data_root / "coco_mini" / "val2017").iterdir())[:2])
    model = load_onnx(data_root / "models" / "yolox_nano.onnx")
    case = quantized(model, second, KeepFloat(depthwise=False), "tensorrt", ranges=first)

    steps = differences(case, second, ways, forced=True)

    assert len(steps) > 80
    assert max(array.max() for array in steps.values()) <= 1
    assert sum((array > 0).sum() for array in steps.values()) < 1e-5 * sum(array.size for array in steps.values())


@pytest.mark.slow
def test_where_yolox_nano_drifts_a_change_in_the_last_bit_of_the_biases_does_the_same(data_root):
    """Through 100 layers a rounding that falls the other way spreads, in ONNX Runtime against itself too."""
    path = sorted((data_root / "coco_mini" / "val2017").iterdir())[0]
    feeds = yolox_image(path)
    model = load_onnx(data_root / "models" / "yolox_nano.onnx")
    case = quantized(model, feeds, KeepFloat(), "tensorrt")
    steps = differences(case, feeds, imported, forced=False)
    nudged = run(nudge(case.qdq), feeds, list(case.dequantized.values()))
    inherent = {
        tensor: np.rint(
            np.abs(nudged[output].astype(np.float64) - case.reference[tensor]) / case.qparams[tensor].scale[0]
        )
        for tensor, output in case.dequantized.items()
    }

    ours, own = (float(np.mean([(a > 0).mean() for a in found.values()])) for found in (steps, inherent))
    assert ours < 1.5 * own


def nudge(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same network with every bias of a convolution one unit in the last place larger."""
    new = onnx_graph.copy(model)
    biases = {node.input[2] for node in new.graph.node if node.op_type == "Conv" and len(node.input) > 2}
    for tensor in new.graph.initializer:
        if tensor.name in biases:
            values = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(np.nextafter(values, np.float32(np.inf)), tensor.name))
    return new


def yolox_image(path: Path) -> dict[str, np.ndarray]:
    """Letterboxed to 416 at the top left, BGR 0-255."""
    pixels = cv2.imread(str(path))
    ratio = 416 / max(pixels.shape[:2])
    pixels = cv2.resize(pixels, (int(pixels.shape[1] * ratio), int(pixels.shape[0] * ratio)))
    framed = np.full((416, 416, 3), 114, np.float32)
    framed[: pixels.shape[0], : pixels.shape[1]] = pixels
    return {"images": np.ascontiguousarray(framed.transpose(2, 0, 1)[None])}


@pytest.mark.slow
@pytest.mark.parametrize("ways", [inserted, imported])
def test_espnet_agrees_within_one_step_layer_by_layer(data_root, monkeypatch, ways):
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parents[4] / "examples"), *sys.path])
    from espnet import espnet

    module = espnet()
    weights = data_root / "models" / "espnet_p_2_q_8_camvid.pth"
    module.load_state_dict(torch.load(weights, weights_only=True, map_location="cpu"))
    pixels = cv2.imread(str(sorted((data_root / "camvid" / "images" / "val").iterdir())[0])).astype(np.float32)
    scaled = (pixels - np.float32([110.331, 108.409, 105.033])) / np.float32([72.126, 72.691, 69.904]) / 255
    feeds = {"images": np.ascontiguousarray(scaled.transpose(2, 0, 1)[None].astype(np.float32))}
    case = quantized(to_onnx(module, (360, 480)), feeds)

    steps = differences(case, feeds, ways, forced=True)

    assert len(steps) > 60
    assert max(array.max() for array in steps.values()) <= 1
    assert sum((array > 0).sum() for array in steps.values()) < 1e-5 * sum(array.size for array in steps.values())
