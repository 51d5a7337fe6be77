from itertools import pairwise

import numpy as np
import pytest

from avcompress.search.solve.evolve import Evolution, evolve
from avcompress.search.solve.front import front
from avcompress.search.solve.problem import Problem

pytest.importorskip("optuna", reason="optuna is not installed")


def pairs_problem(groups: int) -> Problem:
    """Each group loses 1 and saves 1 ms in INT8; what is quantized is of equal size."""
    return Problem(
        tuple(f"g{i}" for i in range(groups)),
        (("fp32", "int8"),) * groups,
        (np.array([0.0, 1.0]),) * groups,
        (np.array([2.0, 1.0]),) * groups,
        shares=(np.array([0.0, 1 / groups]),) * groups,
    )


def measured(assignment) -> float:
    """Errors of neighbours cancel: what no sum over groups can say. Two by two, a pair loses 0.1 instead of 2."""
    own = [assignment[name] == "int8" for name in sorted(assignment, key=lambda name: int(name[1:]))]
    return sum(0.1 if a and b else float(a or b) for a, b in zip(own[::2], own[1::2], strict=True))


def test_losses_that_do_not_add_up_are_found_by_measuring():
    problem = pairs_problem(8)
    # The first generation is any choice of each size; by the model they are all alike.
    first = front(problem)

    found = evolve(problem, first, measured, Evolution(generations=12))

    four = min(solution.loss for solution in found if solution.ms <= 12.0)
    assert four == pytest.approx(0.2)
    assert all(a.ms < b.ms and a.loss > b.loss for a, b in pairwise(found))


def test_the_same_seed_gives_the_same_choices_and_no_choice_is_measured_twice():
    problem, asked = pairs_problem(6), []

    def moved(assignment):
        asked.append(tuple(sorted(assignment.items())))
        return measured(assignment)

    once = evolve(problem, front(problem), moved, Evolution(generations=3, seed=5))

    assert len(asked) == len(set(asked))
    assert once == evolve(problem, front(problem), measured, Evolution(generations=3, seed=5))


def test_what_quantizes_too_little_is_left_out():
    problem = pairs_problem(6)

    found = evolve(problem, front(problem, share=0.5), measured, Evolution(generations=3, share=0.5))

    assert found
    assert all(problem.share(solution.choice) >= 0.5 for solution in found)
