import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avcompress.search.solve.front import front, unbeaten
from avcompress.search.solve.greedy import solve_greedily
from avcompress.search.solve.problem import Link, Problem, Solution


def problem_by_chance(seed: int, groups: int = 4) -> Problem:
    random = np.random.default_rng(seed)
    losses = tuple(np.array([0.0, *10 ** random.uniform(-5, 0, 2)]) for _ in range(groups))
    times = tuple(random.uniform(0.5, 2, 3) for _ in range(groups))
    links = tuple(Link(i, i + 1, random.uniform(0, 0.4, (3, 3)) * (1 - np.eye(3))) for i in range(groups - 1))
    return Problem(tuple("abcd"[:groups]), (("fp32", "fp16", "int8"),) * groups, losses, times, links)


@settings(max_examples=8)
@given(seed=st.integers(0, 2**32 - 1))
def test_nothing_beats_a_choice_of_the_front(seed):
    problem = problem_by_chance(seed)
    every = [(problem.taken_ms(c), problem.loss(c)) for c in itertools.product(range(3), repeat=4)]

    found = front(problem, count=6)

    assert found[0].ms == pytest.approx(min(ms for ms, _ in every))
    assert found[-1].loss == pytest.approx(0, abs=1e-9)
    for solution in found:
        assert not any(ms < solution.ms - 1e-4 and loss <= solution.loss for ms, loss in every)
    assert [s.ms for s in found] == sorted(s.ms for s in found)
    assert [s.loss for s in found] == sorted((s.loss for s in found), reverse=True)


def test_any_solver_makes_a_front_and_without_a_choice_it_is_one_solution():
    assert len(front(problem_by_chance(0), count=6, solve=solve_greedily)) > 1
    alone = Problem(("a",), (("fp32",),), (np.array([0.0]),), (np.array([1.0]),))
    assert [solution.choice for solution in front(alone)] == [(0,)]


def test_a_choice_that_loses_no_number_beats_none():
    lost, good = (
        Solution((option,), loss, ms, proven=False) for option, loss, ms in ((0, math.nan, 1.0), (1, 0.5, 2.0))
    )

    assert unbeaten([lost, good]) == (good,)


@pytest.mark.parametrize("share", [0.96, 1.0])
def test_a_share_that_leaves_nothing_to_choose_gives_one_choice(share):
    # One layer has nearly all of the multiply-accumulates, and all that is lost.
    losses, shares = (np.array([0.0, 1.0]), np.array([0.0, 0.0])), (np.array([0.0, 0.96]), np.array([0.0, 0.04]))
    times = (np.array([2.0, 1.0]), np.array([2.0, 1.0]))
    problem = Problem(("a", "b"), (("fp32", "int8"),) * 2, losses, times, shares=shares)

    assert front(problem, share=share)[-1].choice == (1, 1)
