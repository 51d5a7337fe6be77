"""The union-find over arrays of atoms."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from avcompress.prune.labels import NONE, Atoms, best_axis, units

PAIRS = st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=14)


def together(atoms, labels):
    """The sets of positions that share a root."""
    found = {}
    for position, root in enumerate(atoms.roots(labels).tolist()):
        found.setdefault(root, set()).add(position)
    return sorted(map(sorted, found.values()))


@given(batches=st.lists(PAIRS, max_size=4))
def test_what_goes_together_is_what_pairs_connect(batches):
    atoms = Atoms()
    labels = atoms.fresh((12,))
    for pairs in batches:
        left, right = (np.array([pair[side] for pair in pairs], int) for side in (0, 1))
        atoms.unite(labels[left], labels[right], "never")

    sets = [{i} for i in range(12)]
    for a, b in (pair for pairs in batches for pair in pairs):
        one, other = (next(s for s in sets if v in s) for v in (a, b))
        if one is not other:
            sets.remove(other)
            one |= other
    assert together(atoms, labels) == sorted(map(sorted, sets))


def test_fresh_atoms_are_new_and_none_is_not_among_them():
    atoms = Atoms()
    one, two = atoms.fresh((2, 3)), atoms.fresh((4,))

    assert len({*one.ravel().tolist(), *two.tolist(), NONE}) == 11


def test_arrays_broadcast_when_they_are_united():
    atoms = Atoms()
    channels, grid = atoms.fresh((3, 1)), atoms.fresh((3, 2))

    atoms.unite(channels, grid, "never")

    assert together(atoms, grid.ravel()) == [[0, 1], [2, 3], [4, 5]]


def test_what_meets_none_has_to_stay_and_nothing_else_is_tied():
    atoms = Atoms()
    labels = atoms.fresh((3,))

    atoms.unite(labels, np.array([NONE, labels[1], NONE]), "Add 'sum'")

    assert together(atoms, labels) == [[0], [1], [2]]
    why = "Add 'sum' joins them with values that have to stay"
    assert atoms.reasons() == {int(labels[0]): why, int(labels[2]): why}


def test_a_reason_holds_for_all_that_go_together_and_the_first_counts():
    atoms = Atoms()
    labels = atoms.fresh((3,))
    atoms.protect(labels[:1], "first")
    atoms.unite(labels[:2], labels[1:], "never")
    atoms.protect(labels, "second")

    assert atoms.reasons() == {int(labels[0]): "first"}


def test_what_a_sum_that_has_to_stay_is_made_of_stays_too():
    atoms = Atoms()
    labels, others = atoms.fresh((3,)), atoms.fresh((2,))
    inner = atoms.summary(labels)
    outer = atoms.summary(np.array([inner]))
    atoms.summary(others)
    atoms.protect(np.array([outer]), "it is an output")

    assert {atom for atom in labels.tolist() if atom in atoms.reasons()} == set(labels.tolist())
    assert not set(others.tolist()) & atoms.reasons().keys()


def test_a_compact_array_has_size_one_where_nothing_varies():
    atoms = Atoms()
    labels = np.broadcast_to(atoms.fresh((1, 4, 1, 1)), (1, 4, 2, 3))
    assert atoms.compact(labels).shape == (1, 4, 1, 1)

    atoms.unite(labels[:, :2], labels[:, 2:], "never")
    assert atoms.compact(labels).shape == (1, 4, 1, 1)

    atoms.unite(labels[:, :1], labels, "never")
    assert atoms.compact(labels).shape == (1, 1, 1, 1)


def test_of_two_axes_the_one_with_more_channels_is_kept():
    atoms = Atoms()
    labels = atoms.fresh((2, 5))

    assert (units(labels, 0), units(labels, 1), best_axis(labels)) == (2, 5, 1)
    assert atoms.along_one_axis(labels, "never").shape == (1, 5)
    assert together(atoms, labels.ravel()) == [[i, i + 5] for i in range(5)]


def test_what_ties_the_positions_of_a_tensor_is_told_the_last_first():
    atoms = Atoms()
    labels, others = atoms.fresh((2, 3)), atoms.fresh((3,))
    atoms.uniform(labels, [0], "Reshape 'a'")
    atoms.uniform(labels, [0], "Reshape 'again'")
    atoms.unite(others, labels[0], "Add 'b'")
    assert atoms.ties() == {int(labels[0, 0]): "Reshape 'a'"}

    atoms.uniform(labels, [1], "Conv 'c'")
    assert atoms.ties() == {int(labels[0, 0]): "Conv 'c'"}


def test_an_axis_that_is_asked_for_is_kept():
    atoms = Atoms()
    labels = atoms.fresh((2, 5))

    assert atoms.along_one_axis(labels, "never", axis=0).shape == (2, 1)
    assert together(atoms, labels.ravel()) == [list(range(5)), list(range(5, 10))]
