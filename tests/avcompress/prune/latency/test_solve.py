import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avcompress.prune.latency.measure import designs
from avcompress.prune.latency.solve import Problem, solve
from avcompress.prune.selection import steps_of
from avcompress.spec import RecipeError


def clock_of(coupling, step=8):
    sizes = np.array([len(group.channels) for group in coupling.groups])

    def clock(counts):
        widths = np.ceil((sizes - counts) / step) * step
        return 0.1 + widths[:, 0] * 0.01 + (widths[:, :-1] * widths[:, 1:]).sum(axis=1) * 0.001 + widths[:, -1] * 0.02

    return clock


def lost(coupling, scores, removed):
    return sum(float(np.asarray(scores[name])[list(indices)].sum()) for name, indices in removed.items())


def counted(coupling, removed):
    return np.array([len(removed.get(group.name, ())) for group in coupling.groups])


def best(coupling, scores, clock, budget, align):
    """By trying everything."""
    options = [range(0, len(group.channels), align) for group in coupling.groups]
    return min(
        sum(np.sort(scores[g.name])[:n].sum() for g, n in zip(coupling.groups, counts, strict=True))
        for counts in itertools.product(*options)
        if clock(np.array([counts]))[0] <= budget
    )


def test_the_least_important_channels_go_from_where_they_save_most(chain):
    _, coupling = chain((16, 16, 8))
    scores = {"conv0": np.arange(16.0), "conv1": np.arange(16.0) * 100 + 100}
    clock = clock_of(coupling)

    removed = solve(Problem(coupling, scores, clock, steps_of(coupling, 8)), clock(np.array([[8, 0]]))[0])

    assert removed == {"conv0": tuple(range(8))}


def test_of_equally_important_channels_the_later_go(chain):
    _, coupling = chain((16, 16, 8))
    scores = {"conv0": np.ones(16), "conv1": np.full(16, 100.0)}
    clock = clock_of(coupling)

    removed = solve(Problem(coupling, scores, clock, steps_of(coupling, 8)), clock(np.array([[8, 0]]))[0])

    assert removed == {"conv0": tuple(range(8, 16))}


def test_widths_are_aligned_in_values_where_one_channel_is_several(chain):
    """Two values of each tensor are a channel of the first group, as before pixels are shuffled."""
    _, coupling = chain((24, 24, 8))
    first, second = coupling.groups
    atoms = tuple(range(100, 112))
    pairs = np.repeat(atoms, 2).reshape(1, -1, 1, 1)
    narrow = replace(
        coupling,
        groups=(replace(first, channels=first.channels[:12]), second),
        labels={**coupling.labels, "c0": pairs, "y0": pairs},
        atoms={**coupling.atoms, "conv0": atoms},
    )
    scores = {"conv0": np.ones(12), "conv1": np.full(24, 100.0)}
    clock = clock_of(narrow, step=1)

    removed = solve(Problem(narrow, scores, clock, steps_of(narrow, 8)), clock(np.array([[4, 0]]))[0])

    assert removed == {"conv0": (8, 9, 10, 11)}
    assert {len(each["conv0"]) for each in designs(narrow, steps_of(narrow, 8)) if "conv0" in each} == {4, 8}


def test_a_budget_that_is_kept_already_removes_nothing(chain):
    _, coupling = chain()
    clock = clock_of(coupling)

    problem = Problem(coupling, {"conv0": np.ones(16), "conv1": np.ones(24)}, clock, steps_of(coupling, 8))

    assert solve(problem, clock(np.zeros((1, 2)))[0]) == {}


def test_a_budget_below_the_narrowest_widths_is_refused(chain):
    _, coupling = chain()
    scores = {"conv0": np.ones(16), "conv1": np.ones(24)}

    with pytest.raises(RecipeError, match=r"expected widths that take 0.01 ms, got .* for the narrowest allowed"):
        solve(Problem(coupling, scores, clock_of(coupling), steps_of(coupling, 8)), 0.01)


def test_a_group_without_scores_stays_whole(chain):
    _, coupling = chain((16, 16, 8))
    clock = clock_of(coupling)
    problem = Problem(coupling, {"conv1": np.ones(16)}, clock, steps_of(coupling, 8))

    assert solve(problem, clock(np.array([[0, 8]]))[0]) == {"conv1": tuple(range(8, 16))}


def test_a_layer_may_have_steps_of_its_own(chain):
    _, coupling = chain((32, 32, 8))
    scores = {"conv0": np.ones(32), "conv1": np.full(32, 100.0)}
    clock = clock_of(coupling)

    removed = solve(
        Problem(coupling, scores, clock, steps_of(coupling, 8, (("conv0", 16),))), clock(np.array([[8, 0]]))[0]
    )

    assert removed == {"conv0": tuple(range(16, 32))}


def test_a_group_narrower_than_the_alignment_is_left_alone(chain):
    _, coupling = chain((16, 8, 8))
    clock = clock_of(coupling)

    removed = solve(
        Problem(coupling, {"conv0": np.ones(16), "conv1": np.zeros(8)}, clock, steps_of(coupling, 8)),
        clock(np.array([[8, 0]]))[0],
    )

    assert set(removed) == {"conv0"}


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.3, 0.95))
def test_the_choice_keeps_the_budget_and_loses_little_more_than_the_best_one(chain, seed, share):
    random = np.random.default_rng(seed)
    _, coupling = chain((32, 24, 32, 8))
    scores = {
        group.name: random.gamma(1.0, size=len(group.channels)) * random.uniform(0.2, 5) for group in coupling.groups
    }
    clock = clock_of(coupling)
    fewest = clock(np.array([[24, 16, 24]]))[0]
    budget = fewest + share * (clock(np.zeros((1, 3)))[0] - fewest)

    removed = solve(Problem(coupling, scores, clock, steps_of(coupling, 8), floor=0.0), budget)

    assert clock(counted(coupling, removed)[None])[0] <= budget
    assert lost(coupling, scores, removed) <= best(coupling, scores, clock, budget, 8) * 1.25 + 1e-9


def test_the_same_problem_has_the_same_answer(chain):
    _, coupling = chain((32, 24, 32, 8))
    scores = {group.name: np.ones(len(group.channels)) for group in coupling.groups}
    clock = clock_of(coupling)
    problem = Problem(coupling, scores, clock, steps_of(coupling, 8))

    assert solve(problem, clock(np.zeros((1, 3)))[0] * 0.6) == solve(problem, clock(np.zeros((1, 3)))[0] * 0.6)
