"""Removing channels: by hand, and on every architecture of the zoos held against the masked network."""

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from avcompress.onnx_import import import_onnx
from avcompress.prune import channel_groups, masked, without
from avcompress.spec import ModelError
from engines.norm_statistics import read_statistics
from engines.onnx_graph import copy, fold_batch_norms, shapes

TOLERANCE = 1e-4
CHAIN = {"wa": (6, 3, 1, 1), "ba": (6,), "wy": (4, 6, 1, 1)}


@pytest.fixture
def chain(net):
    return net("a = Conv (x, wa, ba) r = Relu (a) y = Conv (r, wy)", CHAIN)


def some(coupling, rng, exact=False):
    """A random part of each group's channels."""
    removed = {}
    for group in coupling.groups:
        count = len(group.channels)
        amount = 0 if exact and group.inexact else int(rng.integers(0, count))
        removed[group.name] = tuple(sorted(rng.choice(count, amount, replace=False).tolist()))
    return removed


def apart(left, right):
    """The largest difference of two lists of arrays of equal shapes, over the largest value."""
    assert [v.shape for v in left] == [v.shape for v in right]
    return max(np.abs(a - b).max() / max(float(np.abs(b).max()), 1e-6) for a, b in zip(left, right, strict=True))


def in_torch(model, image):
    with torch.no_grad():
        outputs = import_onnx(model)(torch.from_numpy(image))
    return [v.numpy() for v in (outputs if isinstance(outputs, tuple) else (outputs,))]


# --- by hand


def test_the_rest_of_each_weight_is_what_it_was(chain, constants):
    small = without(chain, channel_groups(chain), {"Conv_0": (0, 4)})

    before, after = constants(chain), constants(small)
    np.testing.assert_array_equal(after["wa"], before["wa"][[1, 2, 3, 5]])
    np.testing.assert_array_equal(after["ba"], before["ba"][[1, 2, 3, 5]])
    np.testing.assert_array_equal(after["wy"], before["wy"][:, [1, 2, 3, 5]])
    assert shapes(small)["r"] == (1, 4, 8, 8)


def test_the_network_itself_stays_as_it_was(chain):
    before = chain.SerializeToString(deterministic=True)
    coupling = channel_groups(chain)
    without(chain, coupling, {"Conv_0": (0,)})
    masked(chain, coupling, {"Conv_0": (0,)})

    assert chain.SerializeToString(deterministic=True) == before


def test_removing_nothing_changes_no_number(chain, run):
    image = np.random.default_rng(1).normal(0, 1, (1, 3, 8, 8)).astype(np.float32)
    coupling = channel_groups(chain)

    for removed in ({}, {"Conv_0": ()}):
        np.testing.assert_array_equal(run(without(chain, coupling, removed), image)[0], run(chain, image)[0])


@pytest.mark.parametrize(
    ("removed", "message"),
    [
        ({"Conv_7": (0,)}, r"group 'Conv_7': expected one of channel_groups, got no such group; choose another"),
        ({"Conv_2": (0,)}, r"group 'Conv_2': .* got one whose channels stay \(they are the network's output 'y'\)"),
        ({"Conv_0": (2, 6)}, r"group 'Conv_0': expected channels from 0 to 5, got 6; leave it out"),
        ({"Conv_0": (-1,)}, r"group 'Conv_0': expected channels from 0 to 5, got -1; leave it out"),
        ({"Conv_0": (5, 4, 3, 2, 1, 0)}, r"group 'Conv_0': expected one channel at least to stay, got all 6; keep one"),
    ],
)
def test_what_is_not_there_or_would_empty_a_layer_is_refused(chain, removed, message):
    coupling = channel_groups(chain)

    for function in (without, masked):
        with pytest.raises(ModelError, match=message):
            function(chain, coupling, removed)


def test_a_constant_that_another_node_reads_is_copied(net, constants, run):
    nodes = """a = Conv (x, wa) b = Conv (x, wb) r = Reshape (a, size) s = Reshape (b, size) y = Conv (r, wy)
        z = Conv (s, wz)"""
    given = {"wa": (4, 3, 1, 1), "wb": (4, 3, 1, 1), "size": [1, 4, 8, 8], "wy": (4, 4, 1, 1), "wz": (4, 4, 1, 1)}
    model = net(nodes, given, "float[1,4,8,8] y, float[1,4,8,8] z")
    small = without(model, channel_groups(model), {"Conv_0": (1,)})

    sizes = {
        node.name: constants(small)[node.input[1]].tolist() for node in small.graph.node if node.op_type == "Reshape"
    }
    assert sizes == {"Reshape_2": [1, 3, 8, 8], "Reshape_3": [1, 4, 8, 8]}
    run(small, np.zeros((1, 3, 8, 8), np.float32))


def test_a_size_that_says_as_it_was_or_the_rest_goes_on_saying_so(net, constants):
    nodes = "a = Conv (x, wa) r = Reshape (a, size) t = Transpose <perm = [0,2,1]> (r) y = MatMul (t, wy)"
    model = net(nodes, {"wa": (6, 3, 1, 1), "size": [0, 0, -1], "wy": (6, 4)}, "float[1,64,4] y")
    small = without(model, channel_groups(model), {"Conv_0": (1,)})

    assert [v.tolist() for n, v in constants(small).items() if n.startswith("size")] == [[0, 0, -1]]


@pytest.mark.parametrize(
    ("attributes", "weight", "gone", "left"),
    [
        ("group = 6", (6, 1, 1, 1), (1, 4), 4),
        ("group = 3", (6, 2, 1, 1), (2,), 2),
        ("group = 2", (6, 3, 1, 1), (0, 2), 2),
    ],
)
def test_the_number_of_groups_follows(net, node_of, attributes, weight, gone, left, run):
    nodes = f"a = Conv (x, wa) g = Conv <{attributes}> (a, wg) y = Conv (g, wy)"
    model = net(nodes, {"wa": (6, 3, 1, 1), "wg": weight, "wy": (4, 6, 1, 1)})
    coupling = channel_groups(model)
    image = np.random.default_rng(1).normal(0, 1, (1, 3, 8, 8)).astype(np.float32)
    small = without(model, coupling, {"Conv_0": gone})

    assert {a.name: a.i for a in node_of(small, "Conv_1").attribute}["group"] == left
    assert apart(run(small, image), run(masked(model, coupling, {"Conv_0": gone}), image)) < TOLERANCE


def test_a_slice_with_a_step_becomes_a_gather_of_what_is_left(net, run):
    nodes = "a = Conv (x, wa) s = Slice (a, from, to, axes, steps) c = Concat <axis = 1> (s, a) y = Conv (c, wy)"
    for start, stop, step, count in ((1, 9, 2, 4), (-1, -99, -1, 9), (0, 9, 3, 3)):
        given = {"from": [start], "to": [stop], "axes": [1], "steps": [step]}
        model = net(nodes, {"wa": (9, 3, 1, 1), "wy": (4, 9 + count, 1, 1), **given})
        coupling = channel_groups(model)
        removed = some(coupling, np.random.default_rng(2))
        image = np.random.default_rng(1).normal(0, 1, (1, 3, 8, 8)).astype(np.float32)

        assert any(removed.values())
        assert apart(run(without(model, coupling, removed), image), run(masked(model, coupling, removed), image)) < 1e-5


@pytest.mark.parametrize("pads", [[0, 2, 0, 0, 0, 1, 0, 0], [0, -1, 1, 0, 0, -2, 1, 0], [0, 3, 0, 0, 0, -2, 0, 0]])
def test_a_pad_along_channels_adds_or_drops_what_is_left(net, run, pads):
    channels = 6 + pads[1] + pads[5]
    size = 8 + pads[2] + pads[6]
    nodes = "a = Conv (x, wa) p = Pad (a, pads) y = Conv (p, wy)"
    model = net(nodes, {"wa": (6, 3, 1, 1), "pads": pads, "wy": (4, channels, 1, 1)}, f"float[1,4,{size},8] y")
    coupling = channel_groups(model)
    image = np.random.default_rng(1).normal(0, 1, (1, 3, 8, 8)).astype(np.float32)

    for seed in range(4):
        removed = some(coupling, np.random.default_rng(seed))
        assert apart(run(without(model, coupling, removed), image), run(masked(model, coupling, removed), image)) < 1e-5


def test_a_single_channel_that_is_left_is_not_squeezed_away(net, run):
    nodes = "a = Conv (x, wa) p = GlobalAveragePool (a) s = Squeeze (p) y = MatMul (s, wy)"
    model = net(nodes, {"wa": (5, 3, 1, 1), "wy": (5, 4)}, "float[4] y")
    small = without(model, channel_groups(model), {"Conv_0": (0, 1, 2, 4)})

    assert run(small, np.ones((1, 3, 8, 8), np.float32))[0].shape == (4,)


def test_what_batch_norm_left_at_a_convolution_is_sliced_with_it(net, node_of):
    nodes = "a = Conv (x, wa) n = BatchNormalization (a, s, b, m, v) r = Relu (n) y = Conv (r, wy)"
    given = {"wa": (6, 3, 1, 1), "s": (6,), "b": np.arange(6.0), "m": (6,), "v": np.ones(6), "wy": (4, 6, 1, 1)}
    model = fold_batch_norms(net(nodes, given))
    small = without(model, channel_groups(model), {"Conv_0": (0, 3)})

    np.testing.assert_array_equal(read_statistics(node_of(small, "Conv_0")).mean, [1, 2, 4, 5])


def test_sizes_that_the_network_computes_are_followed(net, run):
    nodes = """a = Conv (x, wa) sh = Shape (a) b = Gather <axis = 0> (sh, zero) b1 = Unsqueeze (b, axes)
        target = Concat <axis = 0> (b1, rest) f = Reshape (a, target) y = Gemm <transB = 1> (f, wy)"""
    given = {"wa": (4, 3, 7, 7), "zero": np.array(0), "axes": [0], "rest": [16], "wy": (5, 16)}
    model = net(nodes, given, "float[1,5] y")
    coupling = channel_groups(model)
    image = np.random.default_rng(1).normal(0, 1, (1, 3, 8, 8)).astype(np.float32)
    small = without(model, coupling, {"Conv_0": (1, 2)})

    assert shapes(small)["f"] == (1, 8)
    assert apart(run(small, image), run(masked(model, coupling, {"Conv_0": (1, 2)}), image)) < 1e-5


# --- on every architecture


def holds(model, coupling, image, run, seed):
    """What is asked of every network: equal to the masked one, finite, and the same in torch."""
    rng = np.random.default_rng(seed)
    exact = some(coupling, rng, exact=True)
    reference = run(masked(model, coupling, exact), image)
    small = without(model, coupling, exact)
    outputs = run(small, image)
    assert apart(outputs, reference) < TOLERANCE
    if any(group.inexact for group in coupling.groups):
        small = without(model, coupling, some(coupling, rng))
        outputs = run(small, image)
        assert all(np.isfinite(value).all() for value in outputs)
    assert apart(in_torch(small, image), outputs) < TOLERANCE
    assert [v.shape for v in outputs] == [v.shape for v in reference]
    names = [node.name for node in small.graph.node if not node.name.endswith("/Gather")]
    assert set(names) <= {node.name for node in model.graph.node}


def test_a_pruned_architecture_is_the_masked_one_and_its_import(prunable, exported, coupled, image, run):
    norms = len(prunable) % 2 == 0
    holds(exported(prunable, norms), coupled(prunable, norms), image, run, seed=len(prunable))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_whatever_is_removed_of_an_architecture_is_as_if_masked(prunable, exported, coupled, image, run, seed):
    norms = seed % 2 == 0
    holds(exported(prunable, norms), coupled(prunable, norms), image, run, seed)


@given(data=st.data())
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_channels_of_a_network_with_everything_may_go(data, exported, coupled, image, run):
    name = data.draw(
        st.sampled_from(["shufflenet_v2", "strided", "regnet", "subpixel", "ghostnet", "einsum_attention"])
    )
    model, coupling = exported(name), coupled(name)
    removed = {
        group.name: tuple(
            data.draw(st.lists(st.integers(0, len(group.channels) - 1), unique=True, max_size=len(group.channels) - 1))
        )
        for group in coupling.groups
    }

    assert (
        apart(run(without(model, coupling, removed), image), run(masked(model, coupling, removed), image)) < TOLERANCE
    )


def test_all_but_one_channel_of_every_group_may_go(prunable, exported, coupled, image, run):
    model, coupling = exported(prunable), coupled(prunable)
    removed = {group.name: tuple(range(1, len(group.channels))) for group in coupling.groups}

    outputs = run(without(model, coupling, removed), image)

    assert all(np.isfinite(value).all() for value in outputs)


def test_a_pruned_network_can_be_pruned_again_and_trained(exported, image, run):
    model = exported("yolov5")
    rng = np.random.default_rng(0)
    for _ in range(2):
        coupling = channel_groups(model)
        model = without(model, coupling, some(coupling, rng))
    module = import_onnx(model)
    optimizer = torch.optim.SGD(module.parameters(), 1e-3)
    loss = module(torch.from_numpy(image)).square().mean()
    loss.backward()
    optimizer.step()

    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in module.parameters())
    assert module(torch.from_numpy(image)).square().mean() < loss


def test_equal_removals_give_equal_bytes(exported):
    def pruned():
        model = copy(exported("c2f"))
        coupling = channel_groups(model)
        removed = some(coupling, np.random.default_rng(0))
        return without(model, coupling, removed).SerializeToString(deterministic=True)

    assert pruned() == pruned()
    assert onnx.load_from_string(pruned()).graph.node
