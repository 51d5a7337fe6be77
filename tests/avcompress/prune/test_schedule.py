"""How much is pruned when."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avcompress.prune.schedule import Rise, rounds
from avcompress.spec import RecipeError


def test_every_round_removes_the_same_share_of_what_is_left():
    assert rounds(0.5, 1) == (0.5,)
    assert rounds(0.5, 2) == pytest.approx((1 - 0.5**0.5, 0.5))
    assert rounds(0.875, 3) == pytest.approx((0.5, 0.75, 0.875))


@given(ratio=st.floats(0, 0.95), count=st.integers(1, 8))
def test_the_rounds_end_at_the_ratio_and_take_equal_shares_of_the_rest(ratio, count):
    shares = rounds(ratio, count)

    assert shares[-1] == ratio
    each = [(after - before) / (1 - before) for before, after in zip((0.0, *shares), shares, strict=False)]
    assert each == pytest.approx([each[0]] * count, abs=1e-9)


def test_the_rise_is_the_cubic_of_zhu_and_gupta():
    rise = Rise(start=10, end=20, final=0.8)

    # .8 (1 - (1 - progress)^3) by hand: half-way 0.8 * 7 / 8
    assert [rise.at(done) for done in (0, 9, 10, 15, 20, 99)] == pytest.approx([0, 0, 0, 0.7, 0.8, 0.8])
    assert Rise(0, 10, 0.8, initial=0.4).at(5) == pytest.approx(0.8 - 0.4 / 8)


@given(start=st.integers(0, 20), length=st.integers(0, 50), final=st.floats(0, 0.99), share=st.floats(0, 1))
def test_the_rise_never_falls_and_ends_at_its_share(start, length, final, share):
    rise = Rise(start, start + length, final, final * share)
    shares = [rise.at(done) for done in range(start + length + 2)]

    assert all(a <= b + 1e-12 for a, b in pairwise(shares))
    assert shares[-1] == final


def test_removals_are_due_every_so_many_steps_and_at_the_end():
    rise = Rise(start=2, end=9, final=0.5, every=3)

    assert [done for done in range(12) if rise.is_due(done)] == [2, 5, 8, 9]


@pytest.mark.parametrize(
    "wrong",
    [
        {"start": 5, "end": 4, "final": 0.5},
        {"start": -1, "end": 4, "final": 0.5},
        {"start": 0, "end": 4, "final": 0.5, "every": 0},
        {"start": 0, "end": 4, "final": 1.0},
        {"start": 0, "end": 4, "final": 0.5, "initial": 0.6},
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(RecipeError, match=r"prune.schedule: expected"):
        Rise(**wrong)


def test_no_rounds_are_refused():
    with pytest.raises(RecipeError, match=r"prune.rounds: expected 1 or more"):
        rounds(0.5, 0)
