"""avcompress.lowrank.budget: against all combinations."""

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avcompress.lowrank.budget import Option, least_error

OPTION = st.builds(Option, st.integers(1, 20).map(float), st.integers(0, 50).map(lambda e: e / 50))


def best_of_all(layers, needed):
    """The least error of all combinations that save enough; None where there is none."""
    choices = product(*[[None, *options] for options in layers])
    sums = [(sum(o.saved_ms for o in made if o), sum(o.error for o in made if o)) for made in choices]
    return min((error for saved, error in sums if saved >= needed), default=None)


@settings(max_examples=60)
@given(layers=st.lists(st.lists(OPTION, max_size=3), max_size=5), share=st.sampled_from([0.2, 0.5, 0.8, 1.0, 1.2]))
def test_the_choice_is_as_good_as_the_best_of_all_combinations(layers, share):
    needed = share * sum(max((o.saved_ms for o in options), default=0) for options in layers)
    if not needed:
        return

    found = least_error(layers, needed)

    # Savings are rounded down to parts of what is needed: hold it against the same rounding.
    rounded = [[Option(int(o.saved_ms / needed * 2000), o.error) for o in options] for options in layers]
    best = best_of_all(rounded, 2000)
    if best is None:
        assert found is None
    else:
        chosen = [options[i] for options, i in zip(layers, found, strict=True) if i is not None]
        assert sum(o.error for o in chosen) == pytest.approx(best)
        assert sum(o.saved_ms for o in chosen) >= needed


def test_a_cheap_saving_goes_before_a_dear_one():
    layers = [[Option(5, 0.3)], [Option(5, 0.1)], [Option(4, 0.05)]]

    assert least_error(layers, 5) == (None, 0, None)
    assert least_error(layers, 8.9) == (None, 0, 0)


def test_where_nothing_is_needed_nothing_is_taken():
    assert least_error([[Option(5, 0.3)]], 0) == (None,)
