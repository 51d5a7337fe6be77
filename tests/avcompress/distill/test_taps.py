"""Taps: what they record, by which names, and that the network does not notice."""

import copy
import gc
import weakref

import pytest
import torch
from torch import nn

from avcompress.distill.taps import OUTPUT, Tapped, find_taps
from avcompress.onnx_import import import_onnx
from avcompress.quant.learning.fake_quant import insert_fake_quant
from avcompress.quant.placement.fx_view import graph_view
from avcompress.quant.placement.policy import place
from avcompress.quant.tracing import trace
from avcompress.recipe import KeepFloat
from avcompress.spec import ModelError, QuantParams


class Overwritten(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 2, 1), nn.ReLU(inplace=True)

    def forward(self, x):
        return self.act(self.conv(x))


class Double(nn.Module):
    def forward(self, x):
        return x, x


class Odd(nn.Module):
    """A layer that runs twice, one that never does, and one that gives two tensors."""

    def __init__(self):
        super().__init__()
        self.conv, self.both, self.unused = nn.Conv2d(3, 3, 1), Double(), nn.Identity()

    def forward(self, x):
        return self.both(self.conv(self.conv(x)))[0]


# --- what is recorded


def test_a_torch_module_is_listened_to_and_left_as_it_was(net, images):
    module = net()
    record = Tapped(module, ["norm", "second.0"], "student")(images())

    assert torch.equal(record.taps["norm"], module.norm(module.first(images())))
    assert record.taps["second.0"].shape == (2, 6, 8, 8)
    assert torch.equal(record.at(OUTPUT), record.output)
    assert not any(layer._forward_hooks for layer in module.modules())


def test_a_module_that_fails_keeps_no_hooks(net):
    module = net()

    with pytest.raises(RuntimeError):
        Tapped(module, ["head"], "student")(torch.zeros(1, 5, 16, 16))

    assert not module.head._forward_hooks


def test_an_imported_graph_records_its_tensors_by_their_onnx_names_and_is_left_as_it_was(small_onnx, images):
    module = import_onnx(small_onnx)
    before = module.code
    expected = module(images())

    record = Tapped(module, ["r", "b"], "student")(images())

    assert torch.equal(record.output, expected)
    assert torch.equal(record.taps["b"] + record.taps["r"], Tapped(module, ["s"], "student")(images()).taps["s"])
    assert module.code == before


def test_gradients_reach_the_parameters_of_the_graph_that_was_given_even_after_they_were_replaced(small_onnx, images):
    module = import_onnx(small_onnx)
    tapped = Tapped(module, ["a"], "student")
    module.wa = nn.Parameter(torch.zeros_like(module.wa))

    record = tapped(images())
    record.taps["a"].sum().backward()

    assert torch.equal(record.taps["a"], module.ba.reshape(1, -1, 1, 1).expand_as(record.taps["a"]))
    assert module.wa.grad is not None


def test_what_a_layer_takes_is_recorded_too(net, images, small_onnx):
    module, graph = net(), import_onnx(small_onnx)

    taken = Tapped(module, ["norm"], "student", before=True)(images()).taps["norm"]
    given = Tapped(graph, ["a"], "student")(images()).taps["a"]

    assert torch.equal(taken, module.first(images()))
    assert torch.equal(Tapped(graph, ["n"], "student", before=True)(images()).taps["n"], given)


def test_only_tapped_tensors_are_kept(net, images):
    module, seen = net(), {}
    for name in ("first", "norm", "act"):
        module.get_submodule(name).register_forward_hook(
            lambda _layer, _given, gave, name=name: seen.update({name: weakref.ref(gave)})
        )

    with torch.inference_mode():
        record = Tapped(module, ["norm"], "teacher")(images())
    gc.collect()

    assert {name for name, tensor in seen.items() if tensor() is not None} == {"norm"}
    assert "norm" in record.taps


def test_a_copy_of_a_tapped_network_listens_to_the_copy(net, images):
    pair = nn.ModuleList([net()])
    tapped = Tapped(pair[0], ["head"], "student")

    copied = copy.deepcopy((pair, tapped))

    assert copied[1].module is copied[0][0]
    assert copied[1].module is not pair[0]


# --- names


def test_patterns_stand_for_layers_tensors_and_nodes(net, small_onnx):
    graph = import_onnx(small_onnx)

    assert find_taps(net(), "second*", "student") == ("second", "second.0", "second.1")
    assert find_taps(graph, "[ab]", "student") == ("a", "b")
    assert find_taps(graph, "Conv_*", "student") == ("a", "b", "y")


def test_a_traced_network_keeps_the_paths_of_its_layers_through_fake_quantization(net, images):
    module = net().eval()
    traced = trace(module, images(1))
    placed = place(graph_view(traced, images(1)), KeepFloat())
    sites = [*placed.activations, *placed.weights]
    params = {site.tensor: QuantParams((0.02,), (0,)) for site in sites}
    quantized = insert_fake_quant(traced, sites, params)

    assert find_taps(traced, "second.0", "teacher") == ("second.0",)
    assert find_taps(quantized, "second.0", "student") == ("second_0",)
    recorded = Tapped(quantized, ["second_0"], "student")(images()).taps["second_0"]
    expected = Tapped(traced, ["second.0"], "teacher")(images()).taps["second.0"]
    assert (recorded - expected).abs().mean() < 0.2 * expected.abs().mean()


@pytest.mark.parametrize(
    ("module", "name", "complaint"),
    [
        (Odd, "conv", "tap 'conv': expected a layer that runs once, got one that runs 2 times"),
        (Odd, "unused", "runs 0 times"),
        (Odd, "both", "expected a layer that gives a tensor, got tuple; tap a layer inside it"),
        (Overwritten, "conv", "expected a tensor that stays as it is, got one that a later layer writes over in place"),
    ],
    ids=["twice", "never", "two tensors", "overwritten"],
)
def test_a_tap_that_says_nothing_certain_is_refused_by_name(module, name, complaint, images):
    with pytest.raises(ModelError, match=f"student: .*{complaint}"):
        Tapped(module(), [name], "student")(images())


def test_a_traced_network_with_a_layer_in_place_is_refused_too(images):
    traced = trace(Overwritten(), images(1))

    with pytest.raises(ModelError, match="tap 'conv': expected a tensor that stays"):
        Tapped(traced, ["conv"], "student")(images())


def test_a_pattern_that_fits_nothing_names_the_nearest(net, small_onnx):
    with pytest.raises(ModelError, match=r"teacher: tap 'secund\.0': expected a layer's .* nearest: second\.0"):
        find_taps(net(), "secund.0", "teacher")
    with pytest.raises(ModelError, match=r"student: tap 'layer4\.': expected"):
        find_taps(import_onnx(small_onnx), "layer4.", "student")
