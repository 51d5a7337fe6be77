import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avcompress.search.assignment import kinds_of
from avcompress.search.solve.palettes import over_palettes, palettes
from avcompress.search.solve.problem import Budget, Link, Problem
from avcompress.search.solve.program import solve_exactly
from avcompress.spec import RecipeError

OPTIONS = (("fp32", "fp16", "bf16", "int8", "fp8"), ("fp32", "fp16", "bf16"), ("fp32", "int8", "int8 weights", "fp8"))


def by_chance(seed: int) -> Problem:
    random = np.random.default_rng(seed)
    losses, times = ([random.uniform(0, 1, len(own)) for own in OPTIONS] for _ in range(2))
    links = (Link(0, 1, random.uniform(0, 0.5, (5, 3))), Link(0, 2, random.uniform(0, 0.5, (5, 4))))
    return Problem(("a", "b", "c"), OPTIONS, tuple(losses), tuple(times), links, fixed_ms=0.1)


def can_be_said(problem: Problem, choice: tuple[int, ...]) -> bool:
    try:
        kinds_of(problem.assignment(choice))
    except RecipeError:
        return False
    return True


def test_a_palette_has_one_quantized_and_one_16_bit_precision():
    found = palettes(by_chance(0))

    used = [frozenset(itertools.chain(*palette.options)) for palette in found]
    pairs = itertools.product(("int8", "fp8", "int8 weights"), ("fp16", "bf16"))
    assert set(used) == {frozenset({"fp32", *pair}) for pair in pairs}
    assert len(found) == 6


def test_where_one_of_each_is_offered_there_is_one_palette():
    problem = Problem(("a",), (("fp32", "int8"),), (np.zeros(2),), (np.ones(2),))

    (palette,) = palettes(problem)

    assert palette.options == problem.options


@settings(max_examples=15)
@given(seed=st.integers(0, 2**32 - 1), share=st.floats(0, 1))
def test_the_best_of_all_palettes_is_the_best_choice_that_a_recipe_can_say(seed, share):
    problem = by_chance(seed)
    able = [c for c in itertools.product(*(range(len(o)) for o in OPTIONS)) if can_be_said(problem, c)]
    losses = [problem.loss(choice) for choice in able]
    budget = Budget(loss=min(losses) + share * (max(losses) - min(losses)))

    def solve(palette: Problem):
        least = sum(own.min() for own in palette.losses)
        return [solve_exactly(palette, budget)] if least <= budget.loss else []

    found = over_palettes(problem, solve)[0]

    assert can_be_said(problem, found.choice)
    expected = min(problem.taken_ms(choice) for choice in able if problem.loss(choice) <= budget.loss + 1e-9)
    assert found.ms == problem.taken_ms(found.choice) == pytest.approx(expected, rel=1e-5)
