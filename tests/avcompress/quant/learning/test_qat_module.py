"""The trainable module of a quantized network: the same numbers, the same sites and ties, and back into the graph."""

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import fx

from avcompress.onnx_import import import_onnx
from avcompress.quant.learning.qat_module import qat_module, tied, trained_artifact
from avcompress.quant.learning.quantizers import QuantizedWeight, Quantizer, is_scale
from avcompress.quant.placement.onnx_view import graph_view
from avcompress.quant.placement.policy import place
from avcompress.quant.stages.adaround import adaround
from avcompress.quant.stages.ptq import quantize
from avcompress.recipe import AdaRound, KeepFloat, Ptq
from avcompress.recipe_qat import Qat
from avcompress.spec import Artifact, RecipeError
from engines.in_memory import open_model
from engines.onnx_graph import initializers, with_outputs
from engines.onnx_load import load_onnx
from engines.qdq import qdq_sites

pytestmark = pytest.mark.usefixtures("one_thread")
KEEP = KeepFloat(head=False, depthwise=False)
ZOO = {
    "c2f": "shifted",
    "espnet_like": "asymmetric",
    "mobilenet_v2": "asymmetric",
    "residual": "symmetric",
    "unet": "shifted",
}


def plan(**changes) -> Qat:
    return Qat.model_validate({"kind": "qat", "steps": 1, "weight_scales": "learned"} | changes)


def noise(network: onnx.ModelProto, count: int = 2) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    value = network.graph.input[0]
    shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
    return [{value.name: rng.standard_normal(shape).astype(np.float32)} for _ in range(count)]


@pytest.fixture(scope="module")
def quantized():
    """A network in INT8, by ranges of noise; made once for each of its settings."""
    made = {}

    def make(network: onnx.ModelProto, name: str, **settings) -> Artifact:
        key = (name, *sorted(settings.items()))
        if key not in made:
            ptq = Ptq(kind="ptq", keep_float=KEEP, **settings)
            made[key] = quantize(Artifact(network), ptq, noise(network))
        return made[key]

    return make


def wander_(module: torch.nn.Module, seed: int = 0) -> None:
    """Change everything that is learned, as training might."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            size = 0.1 if is_scale(name) else 2.0
            parameter.add_(size * torch.randn(parameter.shape, generator=random))


def stored(model: onnx.ModelProto) -> bytes:
    return model.SerializeToString(deterministic=True)


@pytest.mark.parametrize(("name", "activations"), ZOO.items())
def test_untrained_it_computes_the_same_and_becomes_the_same_bytes(onnx_network, quantized, name, activations):
    artifact = quantized(onnx_network(name), name, activations=activations)
    method = "lsq_plus" if activations == "asymmetric" else "lsq"
    module = qat_module(artifact, plan(method=method))
    inputs = torch.from_numpy(next(iter(noise(artifact.model, 1)[0].values())))

    with torch.no_grad():
        expected, found = import_onnx(artifact.model)(inputs), module(inputs)
    back = trained_artifact(artifact, module)

    for ours, theirs in zip(
        torch.utils._pytree.tree_leaves(found), torch.utils._pytree.tree_leaves(expected), strict=True
    ):
        assert torch.equal(ours, theirs)
    assert stored(back.model) == stored(artifact.model)
    assert back.qparams == artifact.qparams


def test_in_fp8_and_with_recomputed_weight_scales_it_becomes_the_same_bytes(onnx_network, quantized):
    for settings, changes in (({"format": "fp8"}, {}), ({}, {"weight_scales": "recomputed"})):
        artifact = quantized(onnx_network("c2f"), "c2f", **settings)

        assert stored(trained_artifact(artifact, qat_module(artifact, plan(**changes))).model) == stored(artifact.model)


def test_what_adaround_has_turned_stays_turned_until_it_is_trained(small_artifact, small_batches):
    rounded = adaround(small_artifact, AdaRound(kind="adaround", steps=100), small_batches)
    assert stored(rounded.model) != stored(small_artifact.model)

    assert stored(trained_artifact(rounded, qat_module(rounded, plan())).model) == stored(rounded.model)


def test_weights_begin_as_the_float_ones_not_as_their_roundings(small_artifact):
    module = qat_module(small_artifact, plan())
    floats = initializers(small_artifact.reference)

    weights = {name: part for name, part in module.named_modules() if isinstance(part, QuantizedWeight)}

    assert sorted(weights) == ["weights.wa", "weights.wb", "weights.wy"]
    for name, weight in weights.items():
        value = numpy_helper.to_array(floats[name.removeprefix("weights.")])
        assert np.array_equal((weight.steps * weight.unit).detach().numpy(), value)


@pytest.mark.parametrize("weight_scales", ["fixed", "learned", "recomputed"])
def test_weights_of_half_of_their_range_stay_there(onnx_network, quantized, weight_scales):
    artifact = quantized(onnx_network("c2f"), "c2f", weight_bits=7)
    module = qat_module(artifact, plan(weight_scales=weight_scales))
    wander_(module)
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, QuantizedWeight):
                part.steps.mul_(3)

    back = trained_artifact(artifact, module).model

    integers = [numpy_helper.to_array(t) for t in back.graph.initializer if t.data_type == onnx.TensorProto.INT8]
    largest = max(int(np.abs(values.astype(int)).max()) for values in integers if values.ndim > 1)
    assert largest == 64


@pytest.mark.parametrize("name", ["c2f", "mobilenet_v2", "unet"])
def test_trained_it_keeps_sites_names_and_stored_types(onnx_network, quantized, name):
    artifact = quantized(onnx_network(name), name)
    module = qat_module(artifact, plan())
    wander_(module)

    back = trained_artifact(artifact, module)

    def places(model):
        return [(s.tensor, s.edges, s.constant, s.quantize, s.params.dtype, s.params.axis) for s in qdq_sites(model)]

    placement = place(graph_view(artifact.reference), KEEP)
    assert places(back.model) == places(artifact.model)
    assert sorted(s.tensor for s in qdq_sites(back.model)) == sorted(
        site.tensor for site in (*placement.activations, *placement.weights)
    )
    before, after = initializers(artifact.model), initializers(back.model)
    assert [(n, t.data_type, t.dims) for n, t in before.items()] == [(n, t.data_type, t.dims) for n, t in after.items()]
    assert [n.name for n in back.model.graph.node] == [n.name for n in artifact.model.graph.node]
    assert stored(back.model) != stored(artifact.model)
    assert {s.tensor: s.params for s in qdq_sites(back.model)} == back.qparams


@pytest.mark.parametrize("name", ["c2f", "unet"])
def test_tied_scales_are_one_parameter_and_stay_equal(onnx_network, quantized, name):
    artifact = quantized(onnx_network(name), name)
    leaders = tied(artifact)
    shared = {leader for tensor, leader in leaders.items() if leader != tensor}
    assert shared
    module = qat_module(artifact, plan())
    wander_(module)

    back = trained_artifact(artifact, module)

    activations = [m for m in module.modules() if isinstance(m, Quantizer) and not isinstance(m, QuantizedWeight)]
    sites = [s for s in qdq_sites(back.model) if not s.constant]
    assert len(activations) == len(sites) - sum(leader != tensor for tensor, leader in leaders.items())
    for group in place(graph_view(artifact.reference), KEEP).ties:
        for tensor in group:
            alike = [other for other in group if artifact.qparams[other] == artifact.qparams[tensor]]
            assert len({leaders[other] for other in alike}) == 1
    for tensor, leader in leaders.items():
        assert back.qparams[tensor] == back.qparams[leader]
        assert back.qparams[tensor] != artifact.qparams[tensor]


@pytest.mark.parametrize(("name", "activations"), ZOO.items())
def test_each_layer_is_what_onnx_runtime_computes_within_one_step(onnx_network, quantized, name, activations):
    artifact = quantized(onnx_network(name), name, activations=activations)
    module = qat_module(artifact, plan(method="lsq_plus" if activations == "asymmetric" else "lsq"))
    wander_(module)

    assert_agrees(module, trained_artifact(artifact, module), noise(artifact.model, 1)[0])


def assert_agrees(module: fx.GraphModule, artifact: Artifact, feeds: dict[str, np.ndarray]) -> None:
    """Every layer of the module, given what ONNX Runtime gives the same one of the exported network, gives as much."""
    sites = {s.tensor: s for s in qdq_sites(artifact.model) if not s.constant}
    names = [
        n.meta["onnx"][1][0] for n in module.graph.nodes if n.op == "call_function" and len(n.meta["onnx"][1]) == 1
    ]
    outputs = [*dict.fromkeys([*names, *(s.output for s in sites.values())])]
    session = open_model(with_outputs(artifact.model, outputs))
    values = dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds), strict=True))
    checked = Layers(module, values, {tensor: site.output for tensor, site in sites.items()}, artifact)
    with torch.no_grad():
        checked.run(*(torch.from_numpy(value) for value in feeds.values()))
    assert checked.quantized == len(sites)


class Layers(fx.Interpreter):
    """Holds what each node computes against ONNX Runtime's value, and goes on with that."""

    def __init__(self, module, values, dequantized, artifact):
        super().__init__(module)
        self.values, self.dequantized, self.artifact, self.quantized = values, dequantized, artifact, 0

    def run_node(self, n):
        result = super().run_node(n)
        if not isinstance(result, torch.Tensor) or not n.op.startswith("call_"):
            return result
        tensor = n.meta["onnx"][1][0]
        if n.op == "call_module":
            if not str(n.target).startswith("quantizers."):
                return result
            self.quantized += 1
            given = torch.from_numpy(self.values[self.dequantized[tensor]])
            step = torch.tensor(self.artifact.qparams[tensor].scale).max()
            assert (result - given).abs().max() <= 1.001 * step, tensor
            return given
        given = torch.from_numpy(np.asarray(self.values[tensor]))
        torch.testing.assert_close(result, given, rtol=1e-4, atol=1e-4 * float(given.abs().max()) + 1e-6)
        return given


def test_patterns_choose_whose_scales_change(small_artifact):
    module = qat_module(small_artifact, plan(scales=("w[ab]", "r")))
    wander_(module)
    back = trained_artifact(small_artifact, module)

    changed = {name for name, params in back.qparams.items() if params != small_artifact.qparams[name]}

    assert changed == {"wa", "wb", "r"}


def test_a_pattern_that_names_nothing_and_zero_points_that_are_not_there_are_refused(small_artifact):
    with pytest.raises(RecipeError, match=r"qat.scales: expected names .* got 'nothing\*'"):
        qat_module(small_artifact, plan(scales=("w*", "nothing*")))
    with pytest.raises(RecipeError, match="expected activations with zero points for lsq_plus, got none"):
        qat_module(small_artifact, plan(method="lsq_plus"))


def test_of_a_shifted_activation_the_shift_stays(onnx_network, quantized):
    artifact = quantized(onnx_network("mobilenet_v2"), "mobilenet_v2", activations="shifted")
    shifts = [node.input[1] for node in artifact.model.graph.node if node.op_type == "Sub"]
    assert shifts
    module = qat_module(artifact, plan())
    wander_(module)

    before, after = (initializers(a.model) for a in (artifact, trained_artifact(artifact, module)))

    assert all(before[name] == after[name] for name in shifts)


@pytest.mark.slow
def test_each_layer_of_yolox_nano_is_what_onnx_runtime_computes_within_one_step(data_root):
    network = load_onnx(data_root / "models" / "yolox_nano.onnx", (416, 416))
    pixels = {"images": np.random.default_rng(0).uniform(0, 255, (1, 3, 416, 416)).astype(np.float32)}
    ptq = Ptq(kind="ptq", activations="shifted", keep_float=KeepFloat(depthwise=False))
    artifact = quantize(Artifact(network), ptq, [pixels])
    module = qat_module(artifact, plan())

    assert stored(trained_artifact(artifact, module).model) == stored(artifact.model)
    wander_(module)
    assert_agrees(module, trained_artifact(artifact, module), pixels)
