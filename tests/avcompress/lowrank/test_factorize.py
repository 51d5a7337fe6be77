"""avcompress.lowrank: a network in, one with cheaper layers out, and what was decided."""

import numpy as np
import pytest
from onnx import helper

from avcompress.lowrank import factorize
from avcompress.recipe_lowrank import Factorize
from avcompress.spec import DataError, ModelError, RecipeError
from engines.onnx_graph import check, infer_shapes, macs, shapes


def settings_of(**given):
    return Factorize(kind="factorize", **{"align": 2, **given})


def names_of(network):
    return [node.name for node in network.graph.node]


@pytest.fixture(scope="module")
def done(small_net, small_batches, mac_clock):
    return factorize(small_net, settings_of(rank={"energy": 0.95}), small_batches, mac_clock)


def test_layers_of_low_rank_are_taken_apart_and_the_output_stays_near(done, small_net, small_batches, run):
    assert [each.layer for each in done.decompositions] == ["p", "q"]
    x = small_batches[1]["x"]
    expected = run(small_net, x)
    assert np.square(run(done.network, x) - expected).mean() < 0.15 * expected.var()


def test_what_was_decided_holds_for_the_network(done, small_net):
    before, after = macs(small_net), macs(done.network)
    for each in done.decompositions:
        factors = {name: count for name, count in after.items() if name.startswith(f"{each.layer}/")}
        assert each.macs_before == before[each.layer]
        assert each.macs_after == sum(factors.values())
        assert each.error <= 0.05
        assert each.ms_after < each.ms_before
    assert done.ms_before == pytest.approx(sum(before.values()) / 1e6)
    assert done.ms_after == pytest.approx(sum(after.values()) / 1e6)


def test_every_other_layer_says_why_it_stays(done):
    reasons = {each.layer: each.reason for each in done.left}

    assert reasons == {
        "a": "no rank that keeps 0.95 saves multiply-accumulates",
        "d": "depthwise convolution",
    }


def test_the_log_says_it_in_one_line(done):
    (line,) = done.log

    assert line.startswith("factorize: 2 of 4 layers (")
    assert " ms, " in line
    assert line.endswith("left: 1 x no rank that keeps 0.95 saves multiply-accumulates, 1 x depthwise convolution")


def test_the_network_is_valid_and_states_its_shapes(done):
    check(done.network)
    assert {name for node in done.network.graph.node for name in node.output} <= set(shapes(done.network))


def test_at_full_energy_the_network_computes_what_it_did(small_net, small_batches, mac_clock, run):
    exact = factorize(small_net, settings_of(rank={"energy": 0.999999}, align=1), small_batches, mac_clock)

    assert {each.layer for each in exact.decompositions} == {"p", "q"}
    x = np.random.default_rng(9).standard_normal((1, 3, 16, 16))
    assert np.allclose(run(exact.network, x), run(small_net, x), atol=1e-3)


def test_where_no_layer_gains_the_network_stays_itself_and_the_log_says_so(small_net, small_batches):
    def slower(networks):
        return tuple(float(len(each.graph.node)) for each in networks)

    found = factorize(small_net, settings_of(backend="openvino"), small_batches, slower)

    assert found.network is small_net
    assert found.decompositions == ()
    assert found.ms_before == found.ms_after
    (line,) = found.log
    assert line.startswith(
        "factorize: no layer of 4 gains on openvino, the network stays as it is; left: 3 x no factors"
    )


def test_where_no_layer_gains_nothing_is_said_to_be_faster_on_a_clock_that_wavers(small_net, small_batches):
    def wavering(networks):
        return tuple(10.0 * len(each.graph.node) - number for number, each in enumerate(networks))

    found = factorize(small_net, settings_of(), small_batches, wavering)

    assert found.network is small_net
    assert found.ms_before == found.ms_after


def test_what_is_faster_alone_but_not_in_the_network_is_left(small_net, small_batches, mac_clock):
    def clock(networks):
        whole = [len(each.graph.node) > 5 for each in networks]
        return tuple(9.0 if each else ms for each, ms in zip(whole, mac_clock(networks), strict=True))

    found = factorize(small_net, settings_of(rank={"energy": 0.95}), small_batches, clock)

    assert found.network is small_net
    assert {each.layer: each.reason for each in found.left}["q"] == "faster alone, but not in the network"


def test_a_speedup_is_reached_with_the_layers_that_it_needs(small_net, small_batches, mac_clock):
    found = factorize(small_net, settings_of(rank={"speedup": 1.3, "max_error": 0.5}), small_batches, mac_clock)

    assert found.ms_before / found.ms_after >= 1.3
    assert found.decompositions
    assert len(found.log) == 1


@pytest.mark.parametrize(("factors", "taken"), [((5.0, 1.0), "q"), ((1.0, 5.0), "p")])
def test_of_two_layers_of_the_same_error_the_one_that_the_output_feels_less_is_taken_apart(
    two_branches, mac_clock, factors, taken
):
    rng = np.random.default_rng(0)
    images = [{"x": rng.standard_normal((1, 8, 6, 6)).astype(np.float32)} for _ in range(8)]
    weight = rng.standard_normal((8, 2)) @ rng.standard_normal((2, 8)) + 0.1 * rng.standard_normal((8, 8))
    settings = settings_of(rank={"speedup": 1.05, "max_error": 0.2})

    found = factorize(two_branches(weight, factors, images[0]["x"].shape), settings, images, mac_clock)

    assert [each.layer for each in found.decompositions] == [taken]


def test_a_speedup_that_is_out_of_reach_is_said(small_net, small_batches, mac_clock):
    found = factorize(small_net, settings_of(rank={"speedup": 50.0, "max_error": 0.9}), small_batches, mac_clock)

    assert found.decompositions
    assert found.log[1].startswith("factorize: expected 50 times as fast, got ")
    assert found.log[1].endswith("allow a larger max_error, or prune first")


def test_the_same_input_gives_the_same_bytes(small_net, small_batches, mac_clock, done):
    again = factorize(small_net, settings_of(rank={"energy": 0.95}), small_batches, mac_clock)

    assert again.network.SerializeToString() == done.network.SerializeToString()


def test_fitted_to_weights_no_image_is_read(small_net, mac_clock):
    found = factorize(small_net, settings_of(fit="weight", rank={"energy": 0.95}), [], mac_clock)

    assert {each.layer for each in found.decompositions} == {"p", "q"}


def test_fitted_to_outputs_it_needs_images(small_net, mac_clock):
    with pytest.raises(DataError, match="expected at least one image"):
        factorize(small_net, settings_of(), [], mac_clock)


def test_layers_are_chosen_by_patterns(small_net, small_batches, mac_clock):
    found = factorize(small_net, settings_of(layers=("p*",), rank={"energy": 0.95}), small_batches, mac_clock)

    assert [each.layer for each in found.decompositions] == ["p"]


def test_a_pattern_without_a_layer_is_an_error(small_net, small_batches, mac_clock):
    with pytest.raises(RecipeError, match=r"factorize.exclude: expected patterns that match a weighted layer's node"):
        factorize(small_net, settings_of(exclude=("backbone.*",)), small_batches, mac_clock)


def test_a_weight_that_is_not_finite_is_an_error(conv_net, mac_clock):
    with pytest.raises(ModelError, match="layer 'conv': expected finite weights"):
        factorize(conv_net(np.full((4, 3, 3, 3), np.inf)), settings_of(), [], mac_clock)


def test_weights_behind_constants_that_the_graph_computes_are_found(network, mac_clock):
    rng = np.random.default_rng(0)
    stored = (rng.standard_normal((24, 3)) @ rng.standard_normal((3, 16))).astype(np.float32)
    nodes = [
        helper.make_node("Transpose", ["stored"], ["w"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "w"], ["y"], "m"),
    ]
    model = network(nodes, {"stored": stored}, (1, 10, 16))

    found = factorize(model, settings_of(fit="weight", rank={"energy": 0.99}, align=1), [], mac_clock)

    assert names_of(found.network) == ["m/first", "m/last"]
    assert sum(macs(infer_shapes(found.network)).values()) == 10 * 3 * (16 + 24)


def test_a_network_without_layers_stays_itself(network, mac_clock):
    model = network([helper.make_node("Relu", ["x"], ["y"], "r")], {}, (1, 3, 4, 4))

    assert factorize(model, settings_of(), [], mac_clock).network is model
