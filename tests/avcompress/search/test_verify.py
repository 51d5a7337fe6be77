import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avcompress.search.solve.problem import Problem, Solution
from avcompress.search.verify import Limits, Outcome, Price, between, price_of, verify

OPTIONS = ("fp32", "fp16", "bf16", "int8", "fp8", "int8 weights", "int4 weights", "int8 dynamic")
PROBLEM = Problem(("a",), (OPTIONS,), (np.arange(8.0),), (np.arange(8.0)[::-1],))
FRONT = tuple(Solution((option,), float(option), 7.0 - option, True) for option in range(7, -1, -1))


def measuring(outcomes):
    """Outcomes by precision, and the list of those that were asked for."""
    asked: list[str] = []

    def evaluate(assignment):
        asked.append(assignment["a"])
        return outcomes[assignment["a"]]

    return evaluate, asked


def as_predicted(scale: float = 0.01):
    return {name: Outcome(scale * i, 10.0 - i) for i, name in enumerate(OPTIONS)}


@given(last=st.integers(0, 7))
def test_the_fastest_that_keeps_its_loss_is_found_by_halving(last):
    evaluate, asked = measuring(as_predicted())

    found = verify(PROBLEM, FRONT, Limits(loss=0.01 * last + 0.001), evaluate, tries=4)

    assert found.best.assignment == {"a": OPTIONS[last]}
    assert len(asked) == len(set(asked)) <= 4
    assert found.binding == ()


def test_a_choice_that_the_model_has_in_the_wrong_order_is_found_while_there_are_tries():
    outcomes = as_predicted() | {"int8 weights": Outcome(0.0, 1.0)}
    evaluate, _ = measuring(outcomes)

    found = verify(PROBLEM, FRONT, Limits(loss=0.015), evaluate, tries=8)

    assert found.best.assignment == {"a": "int8 weights"}


def test_where_nothing_keeps_the_limits_the_nearest_is_told_and_which_limit_binds():
    evaluate, asked = measuring({name: Outcome(1.0 + i, 10.0 - i) for i, name in enumerate(OPTIONS)})

    found = verify(PROBLEM, FRONT, Limits(loss=0.5), evaluate, tries=5)

    assert found.best is None
    assert found.binding == ("loss",)
    assert found.nearest.assignment == {"a": "fp32"}
    assert len(asked) == 5


def test_a_deadline_that_no_measured_choice_keeps_binds():
    evaluate, _ = measuring(as_predicted())

    found = verify(PROBLEM, FRONT, Limits(loss=0.035, ms=6.0), evaluate)

    assert found.best is None
    assert found.binding == ("ms",)
    assert found.nearest.outcome == Outcome(0.03, 7.0)


def test_a_measurement_of_nan_keeps_nothing():
    assert Limits(loss=1.0, ms=1.0).broken(Outcome(math.nan, math.nan)) == ("loss", "ms")
    assert Limits(loss=1.0).broken(Outcome(1.0, 5.0)) == ()


@pytest.mark.parametrize("tries", [1, 2, 3])
def test_no_more_is_measured_than_asked_for(tries):
    evaluate, asked = measuring(as_predicted())

    verify(PROBLEM, FRONT, Limits(loss=0.03), evaluate, tries=tries)

    assert len(asked) == tries


def test_what_a_movement_costs_is_told_by_all_outcomes_together():
    """By hand: slope (.01 + .1) / 5 = .022; off it by .012 and -.006, -.001 of a third; s^2 = .000181 / 2."""
    two = [Outcome(0.01, 1.0, moved=1.0), Outcome(0.05, 1.0, moved=2.0)]

    assert price_of(two) == Price(pytest.approx(0.022), math.inf)
    assert price_of(two).most == pytest.approx(0.022)
    told = price_of([*two, Outcome(-0.001, 1.0, moved=0.0)])
    assert told.value == pytest.approx(0.022)
    assert told.error == pytest.approx(math.sqrt((0.012**2 + 0.006**2 + 0.001**2) / 2 / 5))
    assert price_of([Outcome(-0.01, 1.0, moved=1.0)]).value == 0.0
    assert price_of([Outcome(0.3, 1.0)]) == Price(0.0, 0.0)


@given(noise=st.lists(st.floats(-0.004, 0.004), min_size=8, max_size=8))
def test_a_choice_that_keeps_its_floor_by_chance_alone_is_not_believed(noise):
    """The metric is off by four times the floor; movements, which double from choice to choice, are exact."""
    moved = [0.01 * 2.0**i for i in range(8)]
    evaluate, asked = measuring(
        {name: Outcome(0.1 * moved[i] + noise[i], 10.0 - i, moved[i]) for i, name in enumerate(OPTIONS)}
    )

    found = verify(PROBLEM, FRONT, Limits(loss=0.001), evaluate, tries=8)

    assert len(asked) >= 3
    assert all(found.price.most * each.outcome.moved <= 0.001 for each in found.tried if not each.broken)
    assert all("loss" in each.broken for each in found.tried if each.outcome.loss > 0.001)


def test_the_fastest_is_seldom_believed_where_it_truly_loses_ten_times_the_floor():
    """300 stories: a metric that is off by as much as the fastest choice loses; the price is linear."""
    random = np.random.default_rng(0)
    believed = 0
    for _ in range(300):
        noise = random.normal(0, 0.002, 8)
        outcomes = {
            name: Outcome(0.002 * (i / 7) ** 2 + noise[i], 10.0 - i, (i / 7) ** 2) for i, name in enumerate(OPTIONS)
        }
        best = verify(PROBLEM, FRONT, Limits(loss=0.0002), measuring(outcomes)[0], tries=8).best
        believed += best is not None and best.assignment == {"a": OPTIONS[7]}

    assert believed <= 15


def test_single_groups_are_set_back_between_the_last_that_keeps_its_floor_and_the_next_faster_one():
    """Eight groups: all in INT8 lose .036, by hand a choice may lose .02, and the front offers all or nothing."""
    names = tuple(f"g{i}" for i in range(8))
    losses = tuple(np.array([0.0, 0.001 * (i + 1)]) for i in range(8))
    problem = Problem(names, (("fp32", "int8"),) * 8, losses, (np.array([2.0, 1.0]),) * 8)
    ends = [
        Solution((option,) * 8, problem.loss((option,) * 8), problem.taken_ms((option,) * 8), True) for option in (1, 0)
    ]

    def evaluate(assignment):
        choice = problem.choice(assignment)
        return Outcome(problem.loss(choice), problem.taken_ms(choice))

    found = verify(problem, ends, Limits(loss=0.02), evaluate, tries=8)

    # What loses most is set back first: .036 - .008 - .007 - .006 = .015; with two set back it is .021.
    assert [name for name in names if found.best.assignment[name] == "fp32"] == ["g5", "g6", "g7"]


def test_between_two_choices_all_lose_more_than_one_and_take_longer_than_the_other():
    random = np.random.default_rng(0)
    losses, times = (np.stack([ends, random.random(6)], 1) for ends in (np.zeros(6), np.full(6, 1.5)))
    problem = Problem(tuple("abcdef"), (("fp32", "int8"),) * 6, tuple(losses), tuple(times))
    fast, careful = (Solution((o,) * 6, problem.loss((o,) * 6), problem.taken_ms((o,) * 6), True) for o in (1, 0))

    steps = between(problem, fast, careful)

    assert len(steps) >= 3
    assert all(fast.ms < a.ms < b.ms < careful.ms and fast.loss > a.loss > b.loss for a, b in pairwise(steps))
