"""Operators that the architectures do not have: how many channels may go, and that the rest computes the same."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avcompress.prune import channel_groups, masked, without
from avcompress.prune.labels import Atoms
from avcompress.prune.rules.moving import reshape_blocks, reshaped

W = {"wa": (6, 3, 1, 1), "wy": (4, 6, 1, 1)}
OPERATORS = {
    "space_to_depth": (
        "a = Conv (x, wa) s = SpaceToDepth <blocksize = 2> (a) y = Conv (s, w24)",
        {"wa": (6, 3, 1, 1), "w24": (4, 24, 1, 1)},
        "float[1,4,4,4] y",
        [6],
    ),
    "expand_of_a_norm": (
        "a = Conv (x, wa) n = ReduceL2 <axes = [1]> (a) e = Expand (n, size) d = Div (a, e) y = Conv (d, wy)",
        {**W, "size": [1, 6, 8, 8]},
        "float[1,4,8,8] y",
        [6],
    ),
    "tile_of_channels": (
        "a = Conv (x, wa) t = Tile (a, times) y = Conv (t, w12)",
        {"wa": (6, 3, 1, 1), "times": [1, 2, 1, 1], "w12": (4, 12, 1, 1)},
        "float[1,4,8,8] y",
        [6],
    ),
    "tile_of_one_map": (
        "a = Conv (x, wa) m = ReduceSum <keepdims = 1> (a, one) t = Tile (m, times) p = Mul (a, t) y = Conv (p, wy)",
        {**W, "one": [1], "times": [1, 6, 1, 1]},
        "float[1,4,8,8] y",
        [6],
    ),
    "einsum_with_a_weight": (
        'a = Conv (x, wa) e = Einsum <equation = "nchw,cd->ndhw"> (a, we) y = Conv (e, w5)',
        {"wa": (6, 3, 1, 1), "we": (6, 5), "w5": (4, 5, 1, 1)},
        "float[1,4,8,8] y",
        [6, 5],
    ),
    "a_weight_on_the_left": (
        "a = Conv (x, wa) f = Reshape (a, flat) m = MatMul (wm, f) z = MatMul (wz, m) y = Identity (z)",
        {"wa": (6, 3, 1, 1), "flat": [1, 6, 64], "wm": (5, 6), "wz": (4, 5)},
        "float[1,4,64] y",
        [6, 5],
    ),
    "gemm_transposed": (
        "a = Conv (x, wa) p = GlobalAveragePool (a) f = Reshape (p, flat) g = Gemm <transA = 1> (f, wg, bg) "
        "y = Gemm (g, wz)",
        {"wa": (6, 3, 1, 1), "flat": [6, 1], "wg": (6, 5), "bg": (1, 5), "wz": (5, 4)},
        "float[1,4] y",
        [6, 5],
    ),
    "correlation_of_two_maps": (
        "a = Conv (x, wa) b = Conv (x, wb) p = Mul (a, b) s = ReduceSum <keepdims = 1> (p, one) y = Conv (s, w1)",
        {"wa": (6, 3, 1, 1), "wb": (6, 3, 1, 1), "one": [1], "w1": (4, 1, 1, 1)},
        "float[1,4,8,8] y",
        [6],
    ),
    "unit_length": (
        "a = Conv (x, wa) n = LpNormalization <axis = 1> (a) y = Conv (n, wy)",
        W,
        "float[1,4,8,8] y",
        [6],
    ),
    "sampled_where_another_layer_says": (
        "a = Conv (x, wa) g = Conv (x, wg) t = Transpose <perm = [0,2,3,1]> (g) s = GridSample (a, t) y = Conv (s, wy)",
        {**W, "wg": (2, 3, 1, 1)},
        "float[1,4,8,8] y",
        [6],
    ),
    "chosen_by_a_mask": (
        "a = Conv (x, wa) b = Conv (x, wb) m = Greater (a, zero) c = Where (m, a, b) y = Conv (c, wy)",
        {**W, "wb": (6, 3, 1, 1), "zero": np.array(0.0)},
        "float[1,4,8,8] y",
        [6],
    ),
    "resized_by_sizes": (
        'a = Conv (x, wa) r = Resize <mode = "nearest"> (a, , , size) y = Conv (r, wy)',
        {**W, "size": [1, 6, 16, 16]},
        "float[1,4,16,16] y",
        [6],
    ),
    # Columns of the grid are what there is to choose from: 2, 3; 0 with 5, 1 with 4.
    "gathered_in_a_grid": (
        "a = Conv (x, wa) g = Gather <axis = 1> (a, grid) r = Reshape (g, whole) y = Conv (r, w4)",
        {"wa": (6, 3, 1, 1), "grid": np.array([[0, 1, 2, 3], [5, 4, 2, 3]]), "whole": [1, 8, 8, 8], "w4": (4, 8, 1, 1)},
        "float[1,4,8,8] y",
        [2, 2],
    ),
    "joined_along_rows": (
        "a = Conv (x, wa) b = Conv (x, wb) c = Concat <axis = 2> (a, b) y = Conv (c, wy)",
        {**W, "wb": (6, 3, 1, 1)},
        "float[1,4,16,8] y",
        [6],
    ),
    "flipped": (
        "a = Conv (x, wa) f = Slice (a, last, before, one, back) y = Conv (f, wy)",
        {**W, "last": [-1], "before": [-99], "one": [1], "back": [-1]},
        "float[1,4,8,8] y",
        [6],
    ),
    "three_dimensions": (
        "u = Unsqueeze (x, two) a = Conv (u, w3) r = Relu (a) y = Conv (r, wy3)",
        {"two": [2], "w3": (6, 3, 1, 3, 3), "wy3": (4, 6, 1, 1, 1)},
        "float[1,4,1,6,6] y",
        [6],
    ),
    "one_dimension": (
        "f = Reshape (x, flat) a = Conv (f, w1) p = MaxPool <kernel_shape = [2], strides = [2]> (a) y = Conv (p, wy1)",
        {"flat": [1, 3, 64], "w1": (6, 3, 3), "wy1": (4, 6, 1)},
        "float[1,4,31] y",
        [6],
    ),
}


@pytest.mark.parametrize("name", sorted(OPERATORS))
def test_an_operator_lets_channels_go_and_computes_the_same(name, net, run):
    nodes, constants, outputs, expected = OPERATORS[name]
    model = net(nodes, constants, outputs)
    coupling = channel_groups(model)
    image = np.random.default_rng(1).normal(0, 1, (1, 3, 8, 8)).astype(np.float32)

    assert [len(group.channels) for group in coupling.groups] == expected
    assert not any(group.inexact for group in coupling.groups)
    for part in (slice(None, None, 2), slice(1, None)):
        removed = {group.name: tuple(range(len(group.channels))[part]) for group in coupling.groups}
        (small,), (dense,) = (run(make(model, coupling, removed), image) for make in (without, masked))
        np.testing.assert_allclose(small, dense, atol=1e-4 * np.abs(dense).max())


@pytest.mark.parametrize(
    ("nodes", "constants", "kinds"),
    [
        ("a = Conv (x, wa) m = ReduceMean <axes = [1]> (a) s = Sub (a, m) y = Conv (s, wy)", W, ("ReduceMean_1",)),
        ("a = Conv (x, wa) n = LRN <size = 3> (a) y = Conv (n, wy)", W, ("LRN_1",)),
    ],
)
def test_an_operator_that_sees_fewer_channels_is_named(net, run, nodes, constants, kinds):
    model = net(nodes, constants)
    coupling = channel_groups(model)
    small = without(model, coupling, {"Conv_0": (0, 2)})

    assert [group.inexact for group in coupling.groups] == [kinds]
    assert np.isfinite(run(small, np.ones((1, 3, 8, 8), np.float32))[0]).all()


def test_weights_that_are_computed_stay_and_so_does_what_they_meet(net):
    nodes = """a = Conv (x, wa) p = GlobalAveragePool (a) k = Conv (p, wk) r = Reshape (k, kernel) y = Conv (a, r)"""
    constants = {"wa": (6, 3, 1, 1), "wk": (24, 6, 1, 1), "kernel": [4, 6, 1, 1]}
    coupling = channel_groups(net(nodes, constants))

    assert coupling.groups == ()
    assert {fixed.layer: fixed.reason for fixed in coupling.fixed} == {
        "Conv_0": "Conv 'Conv_4' computes its weights",
        "Conv_2": "Conv 'Conv_4' computes its weights",
    }


SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=4)


@given(sizes=SHAPES, data=st.data())
def test_labels_move_through_a_reshape_as_values_do(sizes, data):
    def split(total):
        """A shape of so many values."""
        shape = []
        while total > 1:
            part = data.draw(st.sampled_from([n for n in range(2, total + 1) if total % n == 0]))
            shape.append(part)
            total //= part
        return (*shape, *data.draw(st.lists(st.just(1), max_size=2))) or (1,)

    before = tuple(sizes)
    after = split(int(np.prod(before)))
    varies = data.draw(st.lists(st.booleans(), min_size=len(before), max_size=len(before)))
    labels = Atoms().fresh(tuple(size if free else 1 for size, free in zip(before, varies, strict=True)))

    found = reshaped(labels, before, after)

    expected = np.broadcast_to(labels, before).reshape(after)
    np.testing.assert_array_equal(np.broadcast_to(found, after), expected)


@given(sizes=SHAPES, others=SHAPES)
def test_the_blocks_of_a_reshape_are_all_axes_once_and_hold_as_much(sizes, others):
    before, after = (*sizes, int(np.prod(others))), (int(np.prod(sizes)), *others)
    blocks = list(reshape_blocks(before, after))

    assert [axis for old, _ in blocks for axis in old] == list(range(len(before)))
    assert [axis for _, new in blocks for axis in new] == list(range(len(after)))
    for old, new in blocks:
        assert np.prod([before[a] for a in old]) == np.prod([after[a] for a in new])
