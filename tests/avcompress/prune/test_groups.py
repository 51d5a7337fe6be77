"""How channels are coupled: for each construction a network small enough to work out by hand."""

import numpy as np
import pytest

from avcompress.prune import Channel, Fixed, Place, channel_groups
from avcompress.spec import ModelError


def found(coupling):
    """Producers and readers of each group, and how many channels it has."""
    return [(group.producers, group.readers, len(group.channels)) for group in coupling.groups]


def places(group, index=0):
    """Where one channel lies: {(tensor, axis): positions}."""
    return {(place.tensor, place.axis): place.positions for place in group.channels[index].places}


CHAIN = {"wa": (6, 3, 3, 3), "ba": (6,), "wy": (4, 6, 1, 1)}
PADS = "<pads = [1,1,1,1]>"


def test_two_convolutions_share_the_channels_between_them(net):
    model = net(f"a = Conv {PADS} (x, wa, ba) r = Relu (a) y = Conv (r, wy)", CHAIN)

    coupling = channel_groups(model)

    assert found(coupling) == [(("Conv_0",), ("Conv_2",), 6)]
    (group,) = coupling.groups
    assert group.name == "Conv_0"
    assert group.inexact == ()
    assert group.channels[2] == Channel((Place("wa", 0, (2,)), Place("ba", 0, (2,)), Place("wy", 1, (2,))))
    assert coupling.fixed == (Fixed("Conv_2", "they are the network's output 'y'"),)


def test_a_residual_sum_ties_both_sides_and_broadcasting_ties_nothing(net):
    nodes = f"""a = Conv {PADS} (x, wa) b = Conv {PADS} (a, wb) s = Add (a, b) m = Conv (x, wm)
        t = Mul (s, m) y = Conv (t, wy)"""
    coupling = channel_groups(
        net(nodes, {"wa": (6, 3, 3, 3), "wb": (6, 6, 3, 3), "wm": (1, 3, 1, 1), "wy": (4, 6, 1, 1)})
    )

    assert found(coupling) == [(("Conv_0", "Conv_1"), ("Conv_1", "Conv_5"), 6)]
    assert places(coupling.groups[0], 5) == {("wa", 0): (5,), ("wb", 0): (5,), ("wb", 1): (5,), ("wy", 1): (5,)}
    assert [fixed for fixed in coupling.fixed if fixed.layer == "Conv_3"] == [Fixed("Conv_3", "there is only one")]


def test_a_concat_gives_each_input_its_share_of_what_reads_it(net):
    nodes = "a = Conv (x, wa) b = Conv (x, wb) c = Concat <axis = 1> (a, x, b) y = Conv (c, wy)"
    coupling = channel_groups(net(nodes, {"wa": (2, 3, 1, 1), "wb": (5, 3, 1, 1), "wy": (4, 10, 1, 1)}))

    assert [len(group.channels) for group in coupling.groups] == [2, 5]
    assert places(coupling.groups[0], 1) == {("wa", 0): (1,), ("wy", 1): (1,)}
    assert places(coupling.groups[1], 1) == {("wb", 0): (1,), ("wy", 1): (6,)}


def test_the_parts_of_a_split_are_groups_of_their_own_under_one_layer(net):
    nodes = """a = Conv (x, wa) l, r = Split <axis = 1> (a, sizes) b = Conv (r, wb) c = Concat <axis = 1> (l, b, r)
        y = Conv (c, wy)"""
    coupling = channel_groups(net(nodes, {"wa": (7, 3, 1, 1), "sizes": [3, 4], "wb": (2, 4, 1, 1), "wy": (4, 9, 1, 1)}))

    assert [(group.name, len(group.channels)) for group in coupling.groups] == [
        ("Conv_0", 3),
        ("Conv_0#2", 4),
        ("Conv_2", 2),
    ]
    assert places(coupling.groups[1]) == {("wa", 0): (3,), ("wb", 1): (0,), ("wy", 1): (5,)}


def test_a_slice_of_one_channel_keeps_it(net):
    nodes = """a = Conv (x, wa) s = Slice (a, from, to, axis) b = Mul (a, s) y = Conv (b, wy)"""
    model = net(nodes, {"wa": (4, 3, 1, 1), "from": [0], "to": [1], "axis": [1], "wy": (4, 4, 1, 1)})

    (group,) = channel_groups(model).groups

    assert [places(group, i)["wa", 0] for i in range(3)] == [(1,), (2,), (3,)]


def test_a_depthwise_convolution_passes_its_channels_on(net):
    nodes = "a = Conv (x, wa) d = Conv <group = 4> (a, wd, bd) y = Conv (d, wy)"
    coupling = channel_groups(net(nodes, {"wa": (4, 3, 1, 1), "wd": (8, 1, 1, 1), "bd": (8,), "wy": (4, 8, 1, 1)}))

    assert found(coupling) == [(("Conv_0", "Conv_1"), ("Conv_1", "Conv_2"), 4)]
    # With a multiplier of two: channels 2 and 3 of the output come from channel 1.
    assert places(coupling.groups[0], 1) == {("wa", 0): (1,), ("wd", 0): (2, 3), ("bd", 0): (2, 3), ("wy", 1): (2, 3)}


def test_of_few_wide_groups_the_same_positions_go(net):
    nodes = "a = Conv (x, wa) g = Conv <group = 2> (a, wg) y = Conv (g, wy)"
    coupling = channel_groups(net(nodes, {"wa": (8, 3, 1, 1), "wg": (6, 4, 1, 1), "wy": (4, 6, 1, 1)}))

    assert found(coupling) == [(("Conv_0",), ("Conv_1",), 4), (("Conv_1",), ("Conv_2",), 3)]
    assert places(coupling.groups[0], 1) == {("wa", 0): (1, 5), ("wg", 1): (1,)}
    assert places(coupling.groups[1], 2) == {("wg", 0): (2, 5), ("wy", 1): (2, 5)}


def test_of_many_narrow_groups_whole_ones_go(net):
    nodes = "a = Conv (x, wa) g = Conv <group = 4> (a, wg) y = Conv (g, wy)"
    coupling = channel_groups(net(nodes, {"wa": (8, 3, 1, 1), "wg": (4, 2, 1, 1), "wy": (4, 4, 1, 1)}))

    assert found(coupling) == [(("Conv_0", "Conv_1"), ("Conv_1", "Conv_2"), 4)]
    assert places(coupling.groups[0], 1) == {("wa", 0): (2, 3), ("wg", 0): (1,), ("wy", 1): (1,)}


def test_a_transposed_convolution_has_its_outputs_along_the_second_axis(net):
    nodes = "a = Conv (x, wa) u = ConvTranspose <strides = [2,2]> (a, wu, bu) y = Conv (u, wy)"
    constants = {"wa": (5, 3, 1, 1), "wu": (5, 6, 2, 2), "bu": (6,), "wy": (4, 6, 1, 1)}
    coupling = channel_groups(net(nodes, constants, "float[1,4,16,16] y"))

    assert places(coupling.groups[0], 3) == {("wa", 0): (3,), ("wu", 0): (3,)}
    assert places(coupling.groups[1], 3) == {("wu", 1): (3,), ("bu", 0): (3,), ("wy", 1): (3,)}


@pytest.mark.parametrize(
    ("groups", "weight", "read", "given"), [(2, (8, 3, 2, 2), (1, 5), (1, 4)), (4, (4, 1, 2, 2), (1,), (1,))]
)
def test_a_grouped_transposed_convolution_is_coupled_as_a_grouped_one(net, groups, weight, read, given):
    nodes = f"a = Conv (x, wa) u = ConvTranspose <group = {groups}, strides = [2,2]> (a, wu) y = Conv (u, wy)"
    constants = {"wa": (weight[0], 3, 1, 1), "wu": weight, "wy": (4, groups * weight[1], 1, 1)}
    coupled = channel_groups(net(nodes, constants, "float[1,4,16,16] y")).groups

    assert places(coupled[0], 1)["wu", 0] == read
    assert places(coupled[-1], 1)["wy", 1] == given


def test_a_flattened_map_gives_a_channel_all_its_pixels(net):
    nodes = "a = Conv (x, wa) f = Flatten (a) y = Gemm <transB = 1> (f, wy, by)"
    coupling = channel_groups(net(nodes, {"wa": (4, 3, 7, 7), "wy": (5, 16), "by": (5,)}, "float[1,5] y"))

    assert places(coupling.groups[0], 2) == {("wa", 0): (2,), ("wy", 1): (8, 9, 10, 11)}


def test_a_pixel_shuffle_turns_blocks_of_channels_into_one(net):
    constants = {"wa": (12, 3, 1, 1), "wy": (4, 3, 1, 1)}
    for mode, positions in (("CRD", (4, 5, 6, 7)), ("DCR", (1, 4, 7, 10))):
        nodes = f'a = Conv (x, wa) s = DepthToSpace <blocksize = 2, mode = "{mode}"> (a) y = Conv (s, wy)'
        coupling = channel_groups(net(nodes, constants, "float[1,4,16,16] y"))

        assert len(coupling.groups[0].channels) == 3
        assert places(coupling.groups[0], 1) == {("wa", 0): positions, ("wy", 1): (1,)}


def test_normalization_slopes_and_scales_go_with_their_channel(net):
    nodes = """a = Conv (x, wa) n = BatchNormalization (a, s, b, m, v) p = PRelu (n, slope) g = Mul (p, gamma)
        y = Conv (g, wy)"""
    constants = {
        "wa": (6, 3, 1, 1), "s": (6,), "b": (6,), "m": (6,), "v": np.ones(6), "slope": (6, 1, 1), "gamma": (1, 6, 1, 1),
        "wy": (4, 6, 1, 1),
    }  # fmt: skip
    coupling = channel_groups(net(nodes, constants))

    expected = {("wa", 0), ("s", 0), ("b", 0), ("m", 0), ("v", 0), ("slope", 0), ("gamma", 1), ("wy", 1)}
    assert places(coupling.groups[0], 4) == dict.fromkeys(expected, (4,))


def group_normalized(net, groups):
    """As torch exports GroupNorm(groups, 8): reshape, instance normalization, reshape, scale and bias."""
    nodes = """a = Conv (x, wa) r = Reshape (a, apart) i = InstanceNormalization (r, one, zero) b = Reshape (i, whole)
        s = Mul (b, scale) t = Add (s, bias) y = Conv (t, wy)"""
    constants = {
        "wa": (8, 3, 1, 1), "apart": [0, groups, -1], "one": np.ones(groups), "zero": np.zeros(groups),
        "whole": [1, 8, 8, 8], "scale": (8, 1, 1), "bias": (8, 1, 1), "wy": (4, 8, 1, 1),
    }  # fmt: skip
    return channel_groups(net(nodes, constants))


def test_many_groups_of_a_group_normalization_go_whole_and_exactly(net):
    (group,) = group_normalized(net, 4).groups

    assert len(group.channels) == 4
    assert group.inexact == ()
    assert places(group, 1)["wa", 0] == places(group, 1)["scale", 0] == (2, 3)
    assert places(group, 1)["one", 0] == (1,)


def test_of_few_groups_of_a_group_normalization_the_same_positions_go(net):
    (group,) = group_normalized(net, 2).groups

    assert len(group.channels) == 4
    assert group.inexact == ("InstanceNormalization_2",)
    assert places(group, 1)["wa", 0] == places(group, 1)["bias", 0] == (1, 5)
    assert ("one", 0) not in places(group, 1)


@pytest.mark.parametrize(("groups", "positions", "exact"), [(4, (2, 3), True), (2, (1, 5), False)])
def test_the_operator_of_group_normalization_is_coupled_alike(net, groups, positions, exact):
    nodes = f"a = Conv (x, wa) n = GroupNormalization <num_groups = {groups}> (a, s, b) y = Conv (n, wy)"
    (group,) = channel_groups(
        net(nodes, {"wa": (8, 3, 1, 1), "s": (8,), "b": (8,), "wy": (4, 8, 1, 1)}, opset=21)
    ).groups

    assert places(group, 1)["wa", 0] == places(group, 1)["s", 0] == positions
    assert (group.inexact == ()) == exact


def test_a_layer_normalization_over_channels_is_said_to_be_inexact(net):
    nodes = """a = Conv (x, wa) t = Transpose <perm = [0,2,3,1]> (a) n = LayerNormalization (t, s, b)
        h = MatMul (n, wh) y = MatMul (h, wy)"""
    constants = {"wa": (6, 3, 1, 1), "s": (6,), "b": (6,), "wh": (6, 10), "wy": (10, 4)}
    coupling = channel_groups(net(nodes, constants, "float[1,8,8,4] y"))

    assert [(len(group.channels), group.inexact) for group in coupling.groups] == [
        (6, ("LayerNormalization_2",)),
        (10, ()),
    ]
    assert places(coupling.groups[1], 7) == {("wh", 1): (7,), ("wy", 0): (7,)}


ATTENTION = """a = Conv (x, wa) f = Reshape (a, flat) t = Transpose <perm = [0,2,1]> (f)
    q = MatMul (t, wq) k = MatMul (t, wk) v = MatMul (t, wv)
    qr = Reshape (q, heads) kr = Reshape (k, heads) vr = Reshape (v, heads)
    qh = Transpose <perm = [0,2,1,3]> (qr) kh = Transpose <perm = [0,2,3,1]> (kr) vh = Transpose <perm = [0,2,1,3]> (vr)
    s = MatMul (qh, kh) w = Softmax <axis = 3> (s) o = MatMul (w, vh)
    ot = Transpose <perm = [0,2,1,3]> (o) j = Reshape (ot, joined) y = MatMul (j, wo)"""


HEADS = {
    "wa": (5, 3, 1, 1), "flat": [0, 0, -1], "wq": (5, 6), "wk": (5, 6), "wv": (5, 6), "heads": [0, 0, 2, 3],
    "joined": [0, 0, -1], "wo": (6, 4),
}  # fmt: skip


def test_heads_keep_their_number_and_lose_the_same_positions(net):
    coupling = channel_groups(net(ATTENTION, HEADS, "float[1,64,4] y"))

    assert [len(group.channels) for group in coupling.groups] == [5, 3, 3]
    stream, queries, values = coupling.groups
    assert places(stream, 4) == {("wa", 0): (4,), ("wq", 0): (4,), ("wk", 0): (4,), ("wv", 0): (4,)}
    assert places(queries, 1) == {("wq", 1): (1, 4), ("wk", 1): (1, 4)}
    assert places(values, 2) == {("wv", 1): (2, 5), ("wo", 0): (2, 5)}


def test_heads_that_a_layer_mixes_keep_their_number_too(net):
    mixed = """m = Transpose <perm = [0,2,3,1]> (w) n = MatMul (m, wm) p = Transpose <perm = [0,3,1,2]> (n)
        o = MatMul (p, vh)"""
    text = ATTENTION.replace("o = MatMul (w, vh)", mixed)
    coupling = channel_groups(net(text, {**HEADS, "wm": (2, 2)}, "float[1,64,4] y"))

    assert [len(group.channels) for group in coupling.groups] == [5, 3, 3]
    assert reasons(coupling)["MatMul_15"] == "MatMul 'MatMul_17' joins them with values that have to stay"


def test_a_weight_that_two_layers_share_ties_what_both_read_and_give(net):
    nodes = """a = Conv (x, wa) b = Conv (x, wb) c = Conv (a, w) d = Conv (b, w) e = Concat <axis = 1> (c, d)
        y = Conv (e, wy)"""
    constants = {"wa": (5, 3, 1, 1), "wb": (5, 3, 1, 1), "w": (6, 5, 1, 1), "wy": (4, 12, 1, 1)}
    coupling = channel_groups(net(nodes, constants))

    assert found(coupling) == [
        (("Conv_0", "Conv_1"), ("Conv_2", "Conv_3"), 5),
        (("Conv_2", "Conv_3"), ("Conv_5",), 6),
    ]
    assert places(coupling.groups[1], 5) == {("w", 0): (5,), ("wy", 1): (5, 11)}


def test_a_channel_shuffle_ties_the_same_position_of_every_part(net):
    nodes = """a = Conv (x, wa) r = Reshape (a, apart) t = Transpose <perm = [0,2,1,3,4]> (r) s = Reshape (t, joined)
        y = Conv (s, wy)"""
    constants = {"wa": (6, 3, 1, 1), "apart": [1, 2, 3, 8, 8], "joined": [0, -1, 8, 8], "wy": (4, 6, 1, 1)}
    (group,) = channel_groups(net(nodes, constants)).groups

    assert [places(group, i) for i in range(3)] == [
        {("wa", 0): (i, i + 3), ("wy", 1): (2 * i, 2 * i + 1)} for i in range(3)
    ]


def test_channels_of_zeros_that_a_pad_adds_may_go_and_are_counted_nowhere(net):
    nodes = "a = Conv (x, wa) p = Pad (a, pads) b = Conv (x, wb) s = Add (p, b) y = Conv (s, wy)"
    constants = {"wa": (4, 3, 1, 1), "pads": [0, 1, 0, 0, 0, 2, 0, 0], "wb": (7, 3, 1, 1), "wy": (4, 7, 1, 1)}
    coupling = channel_groups(net(nodes, constants))

    assert [(group.producers, len(group.channels)) for group in coupling.groups] == [
        (("Conv_0", "Conv_2"), 4),
        (("Conv_2",), 3),
    ]
    assert [places(coupling.groups[1], i)["wb", 0] for i in range(3)] == [(0,), (5,), (6,)]


# --- what cannot be pruned


def reasons(coupling):
    return {fixed.layer: fixed.reason for fixed in coupling.fixed}


def test_every_output_of_several_is_protected(net):
    nodes = "a = Conv (x, wa) y = Conv (a, wy) z = Conv (a, wz)"
    constants = {"wa": (6, 3, 1, 1), "wy": (4, 6, 1, 1), "wz": (5, 6, 1, 1)}
    coupling = channel_groups(net(nodes, constants, "float[1,4,8,8] y, float[1,5,8,8] z"))

    assert [group.name for group in coupling.groups] == ["Conv_0"]
    assert reasons(coupling) == {
        "Conv_1": "they are the network's output 'y'",
        "Conv_2": "they are the network's output 'z'",
    }


@pytest.mark.parametrize(
    ("nodes", "outputs", "reason"),
    [
        ("y = Softmax <axis = 1> (a)", "float[1,6,8,8] y", "Softmax 'Softmax_1' runs over them"),
        (
            "s = Add (a, a6) y = Conv (s, wy)",
            "float[1,4,8,8] y",
            "Add 'Add_2' joins them with values that have to stay",
        ),
        ("b = ArgMax <axis = 1> (a) y = Cast <to = 1> (b)", "float[1,1,8,8] y", "ArgMax 'ArgMax_1' picks among them"),
        ("y = ReduceMax <axes = [1]> (a)", "float[1,1,8,8] y", "they are the network's output 'y'"),
        ("y = CumSum (a, one) ", "float[1,6,8,8] y", "CumSum 'CumSum_1' adds them up one after the other"),
        (
            "t, i = TopK <axis = 1> (a, two) y = Conv (t, w2)",
            "float[1,4,8,8] y",
            "TopK 'TopK_1' reads them, and pruning has no rule for it",
        ),
        (
            'p = Pad <mode = "reflect"> (a, pads) y = Conv (p, w7)',
            "float[1,4,8,8] y",
            "Pad 'Pad_1' repeats some of them",
        ),
        ("g = Conv (a, w1) y = Mul (g, x)", "float[1,3,8,8] y", None),
    ],
)
def test_a_layer_whose_channels_have_to_stay_is_named_with_the_reason(net, nodes, outputs, reason):
    constants = {
        "wa": (6, 3, 1, 1), "wy": (4, 6, 1, 1), "one": [1], "two": [2], "w2": (4, 2, 1, 1), "w7": (4, 7, 1, 1),
        "w1": (1, 6, 1, 1), "pads": [0, 1, 0, 0, 0, 0, 0, 0],
    }  # fmt: skip
    nodes = nodes if "a6" not in nodes else f"a6 = Concat <axis = 1> (x, x) {nodes}"
    coupling = channel_groups(net(f"a = Conv (x, wa) {nodes}", constants, outputs))

    assert reasons(coupling).get("Conv_0") == reason
    assert bool(coupling.groups) == (reason is None)


def test_channels_that_a_grouped_layer_ties_altogether_are_named(net):
    # Three pairs of the shuffle in two groups of three: each pair meets the next one at some position.
    nodes = """a = Conv (x, wa) r = Reshape (a, apart) t = Transpose <perm = [0,2,1,3,4]> (r) s = Reshape (t, joined)
        g = Conv <group = 2> (s, wg) b = Conv (g, wb) y = Conv (b, wy)"""
    constants = {
        "wa": (6, 3, 1, 1), "apart": [1, 2, 3, 8, 8], "joined": [1, 6, 8, 8], "wg": (6, 3, 1, 1), "wb": (5, 6, 1, 1),
        "wy": (4, 5, 1, 1),
    }  # fmt: skip
    coupling = channel_groups(net(nodes, constants))

    assert reasons(coupling)["Conv_0"] == "they all go together because of Conv 'Conv_4'"
    assert [group.name for group in coupling.groups] == ["Conv_4", "Conv_5"]


def test_a_quantized_network_is_refused(net):
    nodes = "q = QuantizeLinear (x, s) d = DequantizeLinear (q, s) y = Conv (d, wy)"

    with pytest.raises(
        ModelError, match=r"QuantizeLinear_0.*expected a float network, got a quantized one; prune before"
    ):
        channel_groups(net(nodes, {"s": np.array(0.1, np.float32), "wy": (4, 3, 1, 1)}))


# --- what holds for every architecture


def test_every_layer_of_an_architecture_is_in_a_group_or_is_said_to_be_fixed(prunable, exported, coupled):
    coupling = coupled(prunable)

    grouped = {name for group in coupling.groups for name in (*group.producers, *group.readers)}
    fixed = {one.layer for one in coupling.fixed}
    producers = {name for group in coupling.groups for name in group.producers}
    assert not producers & fixed
    weighted = {n.name for n in exported(prunable).graph.node if n.op_type in {"Conv", "ConvTranspose", "Gemm"}}
    assert weighted <= grouped | fixed
    assert all(one.reason for one in coupling.fixed)


def test_channels_of_a_group_are_disjoint_and_lie_in_the_same_tensors(prunable, coupled):
    taken = set()
    names = set()
    for group in coupled(prunable).groups:
        names.add(group.name)
        kinds = {tuple((p.tensor, p.axis, len(p.positions)) for p in channel.places) for channel in group.channels}
        assert len(kinds) == 1
        assert len(group.channels) >= 2
        for channel in group.channels:
            mine = {(p.tensor, p.axis, position) for p in channel.places for position in p.positions}
            assert not mine & taken
            taken |= mine
    assert len(names) == len(coupled(prunable).groups)
