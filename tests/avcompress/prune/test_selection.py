"""Which channels go: shares, widths, floors, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avcompress.prune import Channel, Coupling, Fixed, Group, Place
from avcompress.prune.selection import Selection, lost, select, steps_of, to_widths
from avcompress.spec import ModelError, RecipeError


def groups(*widths: int, each: int = 1) -> Coupling:
    """Groups a, b, ... of so many channels, each of which is `each` values of a tensor."""
    found, labels, atoms, next_atom = [], {}, {}, 1
    for name, width in zip("abcdefgh", widths, strict=False):
        places = [Place(f"{name}.weight", 0, tuple(range(i, width * each, width))) for i in range(width)]
        found.append(Group(name, (name,), (f"{name}.reader",), tuple(Channel((place,)) for place in places)))
        own = tuple(range(next_atom, next_atom + width))
        next_atom += width
        atoms[name], labels[f"{name}.out"] = own, np.tile(own, each).reshape(1, -1, 1, 1)
    return Coupling(tuple(found), (Fixed("head", "it is an output of the network"),), {}, labels, atoms)


def left(removed, *widths: int) -> list[int]:
    return [width - len(removed.get(name, ())) for name, width in zip("abcdefgh", widths, strict=False)]


def rising(*widths: int) -> dict[str, np.ndarray]:
    return {name: np.arange(width, dtype=float) for name, width in zip("abcdefgh", widths, strict=False)}


# --- local


def test_each_group_loses_its_least_important_channels():
    scores = {"a": np.array([3.0, 1, 2, 5]), "b": np.array([10.0, 40, 20, 30])}

    assert select(groups(4, 4), scores, Selection(0.5)) == {"a": (1, 2), "b": (0, 2)}


def test_of_equal_channels_the_later_go():
    assert select(groups(4), {"a": np.ones(4)}, Selection(0.5)) == {"a": (2, 3)}


@pytest.mark.parametrize(
    ("width", "ratio", "alignment", "expected"),
    [
        (10, 0.3, 1, 7),
        (10, 0.35, 1, 7),  # 6.5: the wider
        (32, 0.3, 8, 24),  # 22.4
        (32, 0.4, 8, 16),  # 19.2
        (32, 0.375, 8, 24),  # 20: the wider of 16 and 24
        (20, 0.05, 8, 20),  # 19: all
        (20, 0.15, 8, 16),  # 17
        (3, 0.9, 1, 1),  # never none
        (64, 0.9, 32, 32),
        (16, 0.5, 16, 16),
    ],
)
def test_what_is_left_is_the_nearest_width_that_the_alignment_allows(width, ratio, alignment, expected):
    removed = select(groups(width), rising(width), Selection(ratio, alignment=alignment))

    assert left(removed, width) == [expected]


def test_a_channel_of_several_values_is_aligned_by_its_values():
    # Four values a channel, as in a grouped convolution: 6 channels are 24 values.
    assert left(select(groups(12, each=4), rising(12), Selection(0.45, alignment=8)), 12) == [6]


def test_a_group_that_is_narrower_than_the_alignment_stays_whole_or_is_pruned_without_it():
    rule = Selection(0.5, alignment=16)

    assert left(select(groups(8, 64), rising(8, 64), rule), 8, 64) == [8, 32]
    assert left(select(groups(8, 64), rising(8, 64), replace(rule, narrow="prune")), 8, 64) == [4, 32]


def test_alignment_may_differ_by_layer_and_the_first_pattern_counts():
    rule = Selection(0.4, alignment=8, by_layer=(("a", 4), ("*", 2)))

    assert left(select(groups(20, 20), rising(20, 20), rule), 20, 20) == [12, 12]
    assert left(select(groups(20, 20), rising(20, 20), replace(rule, by_layer=(("b", 1),))), 20, 20) == [16, 12]


def test_steps_are_channels_of_whose_values_the_alignment_is_a_multiple():
    assert steps_of(groups(8, 24), 8) == {"a": 8, "b": 8}
    assert steps_of(groups(12, 24, each=2), 8, (("b", 16), ("*", 2))) == {"a": 1, "b": 8}


@pytest.mark.parametrize(
    ("by_layer", "message"),
    [
        ((("b", 4), ("a", 16)), r"expected at most the 8 channels of layer 'a', got 16; give it a smaller"),
        ((("c", 4),), r"prune.by_layer: expected names or patterns of layers, got 'c'"),
        ((("a", 0),), r"prune.alignment: expected 1 or more, got 0"),
    ],
)
def test_steps_that_no_layer_can_have_are_refused(by_layer, message):
    with pytest.raises(RecipeError, match=message):
        steps_of(groups(8, 16), 4, by_layer)


def test_protected_layers_and_groups_without_scores_stay_whole():
    scores = rising(8, 8, 8)
    del scores["c"]

    assert select(groups(8, 8, 8), scores, Selection(0.5, protected=("b*",))).keys() == {"a"}


def test_the_floor_holds():
    assert left(select(groups(10), rising(10), Selection(0.5, floor=0.5, alignment=4)), 10) == [8]


# --- global


def test_globally_the_least_of_all_go():
    scores = {"a": np.array([1.0, 2, 3, 4]), "b": np.array([3.5, 30, 40, 50])}

    removed = select(groups(4, 4), scores, Selection(0.5, scope="global", floor=0.0))

    assert removed == {"a": (0, 1, 2), "b": (0,)}


def test_globally_no_group_is_left_with_less_than_its_floor():
    scores = {"a": np.arange(10) * 1e-6, "b": np.arange(10) + 1.0}

    removed = select(groups(10, 10), scores, Selection(0.5, scope="global", floor=0.3))

    assert left(removed, 10, 10) == [3, 7]


def test_globally_the_steps_of_the_alignment_go_in_the_order_of_their_mean():
    # Steps of a: (0 1) (2 3) (4 5), of b: (1 1) (1 9) (9 9): means .5, 2.5, 4.5 and 1, 5, 9
    scores = {"a": np.arange(6.0), "b": np.array([1.0, 1, 1, 9, 9, 9])}

    removed = select(groups(6, 6), scores, Selection(0.5, scope="global", alignment=2))

    assert removed == {"a": (0, 1, 2, 3), "b": (1, 2)}


@pytest.mark.parametrize(("ratio", "expected"), [(0.1, [16, 8]), (0.2, [8, 8]), (0.5, [8, 8]), (0.6, [8, 8])])
def test_globally_what_is_gone_is_nearest_to_the_ratio(ratio, expected):
    # 8 of 24 is the one step there is: from .17 on it brings the share nearer.
    assert left(select(groups(16, 8), rising(16, 8), Selection(ratio, scope="global", alignment=8)), 16, 8) == expected


# --- properties


widths = st.lists(st.integers(2, 40), min_size=1, max_size=4)


@given(widths=widths, ratio=st.floats(0, 0.9), scope=st.sampled_from(["local", "global"]), seed=st.integers(0, 99))
def test_no_group_is_emptied_and_what_stays_matters_more_than_what_goes(widths, ratio, scope, seed):
    rng = np.random.default_rng(seed)
    scores = {name: rng.random(width) for name, width in zip("abcd", widths, strict=False)}

    removed = select(groups(*widths), scores, Selection(ratio, scope=scope, floor=0.1))

    for name, gone in removed.items():
        stay = np.delete(scores[name], list(gone))
        assert len(stay) >= max(1, 0.1 * len(scores[name]) - 1e-6)
        assert scores[name][list(gone)].max() <= stay.min()
    # One step is one channel: the share is met within half of one a group, or as far as floors allow.
    total, count = sum(widths), sum(len(gone) for gone in removed.values())
    assert abs(count - ratio * total) <= 0.5 * (len(widths) if scope == "local" else 1) + sum(
        0.1 * w + 1 for w in widths
    )


@given(width=st.integers(2, 40), order=st.randoms(use_true_random=False), ratio=st.floats(0, 0.9))
def test_channels_in_another_order_lose_the_same_ones(width, order, ratio):
    permutation = list(range(width))
    order.shuffle(permutation)
    scores = np.arange(width, dtype=float)

    first = select(groups(width), {"a": scores}, Selection(ratio)).get("a", ())
    second = select(groups(width), {"a": scores[permutation]}, Selection(ratio)).get("a", ())

    assert sorted(permutation[i] for i in second) == list(first)


@given(width=st.integers(2, 80), ratio=st.floats(0, 0.9), alignment=st.sampled_from([1, 2, 4, 8, 16]))
def test_widths_are_multiples_of_the_alignment_or_whole(width, ratio, alignment):
    if alignment > width:
        return
    removed = select(groups(width), rising(width), Selection(ratio, alignment=alignment))

    assert left(removed, width)[0] == width or left(removed, width)[0] % alignment == 0


# --- given widths, and what is lost


def test_given_widths_are_reached_with_the_least_important():
    scores = {"a": np.array([3.0, 1, 2, 5]), "b": np.ones(4)}

    removed = to_widths(groups(4, 4), scores, {"a": 2})

    assert removed == {"a": (1, 2)}
    assert lost(scores, removed) == 3
    with pytest.raises(RecipeError, match=r"expected 1 to 4 channels of layer 'b' to be left, got 0"):
        to_widths(groups(4, 4), scores, {"b": 0})


# --- what is refused


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ratio": 1.0}, r"prune.ratio: expected 0 <= ratio < 1, got 1.0; 1 would empty every layer"),
        ({"ratio": -0.1}, r"prune.ratio: expected 0 <= ratio < 1, got -0.1"),
        ({"ratio": float("nan")}, r"prune.ratio: expected 0 <= ratio < 1, got nan"),
        ({"ratio": 0.95}, r"prune.floor: expected at most 0.05, which the ratio of 0.95 leaves, got 0.1"),
        ({"ratio": 0.5, "alignment": 0}, r"prune.alignment: expected 1 or more, got 0"),
        ({"ratio": 0.5, "by_layer": (("a", -8),)}, r"prune.alignment: expected 1 or more, got -8"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(RecipeError, match=message):
        Selection(**settings)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1.0])
def test_importance_that_is_not_finite_names_the_layer(bad):
    scores = rising(8, 8)
    scores["b"][3] = bad

    with pytest.raises(ModelError, match=rf"layer 'b', got {bad} at channel 3"):
        select(groups(8, 8), scores, Selection(0.5))


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (Selection(0.5, alignment=64), r"expected at most the 16 channels of layer 'b', got 64; no layer is wider"),
        (
            Selection(0.5, by_layer=(("a", 16),)),
            r"expected at most the 8 channels of layer 'a', got 16; give it a smaller",
        ),
        (Selection(0.5, protected=("c*",)), r"prune.protected: expected names or patterns of layers, got 'c\*'"),
        (Selection(0.5, by_layer=(("c", 4),)), r"prune.by_layer: expected names or patterns of layers, got 'c'"),
    ],
)
def test_an_alignment_or_a_pattern_that_fits_no_layer_is_refused(rule, message):
    with pytest.raises(RecipeError, match=message):
        select(groups(8, 16), rising(8, 16), rule)


def test_a_pattern_may_name_a_layer_that_stays_anyway():
    assert select(groups(8), rising(8), Selection(0.5, protected=("head",))).keys() == {"a"}
