"""avcompress.quant.ties: which tensors share a scale, and which one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avcompress.quant.ties import LOSS_DB, settle_ties
from avcompress.recipe import Ptq
from avcompress.spec import TensorRange
from calibration.histogram import histogram
from calibration.ranges import range_from
from calibration.statistics import TensorStatistics, union

PTQ = Ptq(kind="ptq")
MINMAX = Ptq(kind="ptq", ranges="minmax")


def normal(deviation, seed=0, size=20_000):
    hist = histogram((np.random.default_rng(seed).standard_normal(size) * deviation).astype(np.float32))
    return TensorStatistics(hist, np.float32([[hist.low, hist.high]]))


def of(values):
    hist = histogram(np.float32(values))
    return TensorStatistics(hist, np.float32([[hist.low, hist.high]]))


def test_similar_tensors_get_the_range_of_all_their_values():
    found = {"a": normal(1.0), "b": normal(1.3, 1), "c": normal(5)}

    ranges, notes = settle_ties([("a", "b")], found, PTQ)

    assert ranges["a"] == ranges["b"] == range_from(union([found["a"], found["b"]]), PTQ)
    assert ranges["c"] == range_from(found["c"], PTQ)
    assert notes == ()


def test_minmax_ties_take_the_widest():
    ranges, _ = settle_ties([("a", "b")], {"a": of([-1, 0.5]), "b": of([0, 1.5])}, MINMAX)

    assert ranges["a"] == ranges["b"] == TensorRange((-1.5,), (1.5,))


def test_the_tensor_that_loses_too_much_keeps_its_own_range_and_the_others_stay_tied():
    found = {"a": normal(1.0), "narrow": normal(0.01, 1), "b": normal(1.1, 2)}

    ranges, notes = settle_ties([("a", "narrow", "b")], found, PTQ)

    assert ranges["narrow"] == range_from(found["narrow"], PTQ)
    assert ranges["a"] == ranges["b"] == range_from(union([found["a"], found["b"]]), PTQ)
    assert len(notes) == 1
    assert notes[0].startswith("'narrow' keeps a scale of its own: one with 'a', 'b' would cost it ")


def test_a_tensor_is_compared_with_those_still_tied_only():
    found = {"narrow": normal(0.001), "a": normal(1.0, 1), "thin": normal(0.03, 2), "b": normal(1.1, 3)}

    _, notes = settle_ties([tuple(found)], found, PTQ)

    assert [note.partition(" would")[0] for note in notes] == [
        "'narrow' keeps a scale of its own: one with 'a', 'thin', 'b'",
        "'thin' keeps a scale of its own: one with 'a', 'b'",
    ]


def test_two_tensors_too_far_apart_are_both_on_their_own():
    found = {"a": normal(1.0), "b": normal(100.0)}

    ranges, notes = settle_ties([("a", "b")], found, PTQ)

    assert ranges == {name: range_from(each, PTQ) for name, each in found.items()}
    assert len(notes) == 1


@pytest.mark.parametrize("factor", [1.7, 2.5])
def test_the_limit_is_one_bit(factor):
    """By a factor of two in range a tensor loses 6 dB: half the levels are left for it."""
    x = np.random.default_rng(0).uniform(-1, 1, 200_000)
    found = {"a": of(x), "b": of(x * factor)}

    ranges, _ = settle_ties([("a", "b")], found, MINMAX)

    assert 20 * np.log10(2) == pytest.approx(LOSS_DB, abs=0.1)
    assert (ranges["a"] == ranges["b"]) == (factor < 2)


def test_a_tensor_of_zeros_takes_any_range():
    ranges, notes = settle_ties([("zero", "b")], {"zero": of([0, 0]), "b": of([-1, 2])}, MINMAX)

    assert ranges["zero"] == ranges["b"] == TensorRange((-2.0,), (2.0,))
    assert notes == ()
    ranges, _ = settle_ties([("zero", "b")], {"zero": of([0]), "b": of([0])}, MINMAX)
    assert ranges["zero"] == ranges["b"] == TensorRange((-1.0,), (1.0,))


@given(deviations=st.lists(st.floats(0.01, 100), min_size=2, max_size=5))
@settings(deadline=None, max_examples=20)
@pytest.mark.parametrize("changes", [{}, {"activations": "asymmetric"}, {"format": "fp8"}], ids=str)
def test_members_share_one_range_or_have_their_own(changes, deviations):
    settings_ = Ptq(kind="ptq", ranges="minmax", **changes)
    found = {str(i): normal(d, i, 500) for i, d in enumerate(deviations)}

    ranges, notes = settle_ties([tuple(found)], found, settings_)

    own = {name for name in found if ranges[name] == range_from(found[name], settings_)}
    tied = set(found) - own
    assert len({ranges[name] for name in tied}) <= 1
    assert len(notes) < len(found)
