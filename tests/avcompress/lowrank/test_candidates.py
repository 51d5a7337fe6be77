"""avcompress.lowrank.candidates: methods and ranks by the recipe's rule, and what each loses."""

from dataclasses import replace

import numpy as np
import pytest

from avcompress.lowrank.candidates import find_candidates
from avcompress.lowrank.layers import find_layers
from avcompress.lowrank.moments import measure
from avcompress.lowrank.surgery import apply
from avcompress.recipe_lowrank import Factorize
from avcompress.spec import RecipeError
from engines.in_memory import open_model
from engines.onnx_graph import with_outputs


def settings_of(**given):
    return Factorize(kind="factorize", **given)


@pytest.fixture(scope="module")
def layers(small_net):
    return {layer.name: layer for layer in find_layers(small_net)[0]}


@pytest.fixture(scope="module")
def seen(small_net, small_batches, layers):
    return measure(small_net, tuple(layers.values()), small_batches)


def test_energy_takes_the_smallest_rank_that_keeps_enough(layers, seen):
    # The weight of p has rank 6.
    (found,) = find_candidates(layers["p"], seen["p"], settings_of(rank={"energy": 0.999}, align=1))

    assert found.into.ranks == (6,)
    assert found.error < 1e-4


def test_energy_of_weights_keeps_their_squares(layers):
    values = np.linalg.svd(layers["p"].weight[:, :, 0, 0], compute_uv=False)
    kept = np.cumsum(np.square(values)) / np.square(values).sum()

    (found,) = find_candidates(layers["p"], None, settings_of(rank={"energy": 0.8}, align=1, fit="weight"))

    assert found.into.ranks == (int(np.argmax(kept >= 0.8)) + 1,)
    assert found.error == pytest.approx(1 - kept[found.into.ranks[0] - 1], abs=1e-5)


def test_ranks_are_multiples_of_the_alignment(layers, seen):
    found = find_candidates(layers["q"], seen["q"], settings_of(rank={"energy": 0.9}, align=8))

    assert found
    assert all(rank % 8 == 0 for each in found for rank in each.into.ranks)


def test_speedup_offers_several_ranks_of_which_each_has_its_use(layers, seen):
    found = find_candidates(layers["q"], seen["q"], settings_of(rank={"speedup": 1.5, "max_error": 0.5}, align=4))

    assert len(found) > 3
    assert all(each.error <= 0.5 and each.macs < layers["q"].macs for each in found)
    of_svd = [(each.macs, -each.error) for each in found if each.into.method == "svd"]
    assert of_svd == sorted(of_svd)


def test_the_bias_takes_up_what_the_output_lacks_in_the_mean(small_net, small_batches, layers, seen):
    (found,) = find_candidates(layers["p"], seen["p"], settings_of(method="svd", rank=2))

    def mean_of(model):
        session = open_model(with_outputs(model, ["p"]))
        return np.mean([session.run(["p"], dict(batch))[0].mean((0, 2, 3)) for batch in small_batches], axis=0)

    networks = [apply(small_net, [into]) for into in (found.into, replace(found.into, shift=None))]
    lacking = [np.abs(mean_of(each) - mean_of(small_net)).sum() for each in networks]
    assert lacking[0] < lacking[1] / 3


def test_evbmf_that_saves_nothing_is_said(layers, seen):
    found = find_candidates(layers["a"], seen["a"], settings_of(rank="evbmf", method="svd", align=32))

    assert found == "EVBMF's ranks save no multiply-accumulates"


def test_evbmf_gives_each_method_its_rank(layers, seen):
    found = find_candidates(layers["q"], seen["q"], settings_of(rank="evbmf"))

    assert {each.into.method for each in found} >= {"spatial_svd", "cp"}
    assert all(each.macs < layers["q"].macs for each in found)


def test_a_rank_of_ones_own_is_taken_as_it_is(layers, seen):
    (pair,) = find_candidates(layers["q"], seen["q"], settings_of(method="tucker2", rank=[10, 6]))
    (one,) = find_candidates(layers["q"], seen["q"], settings_of(method="tucker2", rank=5))

    assert (pair.into.ranks, one.into.ranks) == ((10, 6), (5, 5))


def test_a_rank_larger_than_the_layer_allows_is_refused_by_name(layers, seen):
    with pytest.raises(
        RecipeError, match=r"factorize\.rank, layer 'a', svd of 32x3x3x3: expected a rank of 1 to 27, got 28; give"
    ):
        find_candidates(layers["a"], seen["a"], settings_of(method="svd", rank=28))


def test_a_rank_that_costs_more_than_the_layer_is_said(layers, seen):
    found = find_candidates(layers["p"], seen["p"], settings_of(method="svd", rank=32))

    assert found == "the rank saves no multiply-accumulates"


def test_a_method_that_does_not_suit_a_kernel_is_said(layers, seen):
    found = find_candidates(layers["p"], seen["p"], settings_of(method="spatial_svd"))

    assert found == "spatial_svd does not suit its kernel of 1x1"


def test_an_energy_that_no_saving_rank_keeps_is_said(layers, seen):
    found = find_candidates(layers["a"], seen["a"], settings_of(rank={"energy": 0.9999}, align=32))

    assert found == "no rank that keeps 0.9999 saves multiply-accumulates"
