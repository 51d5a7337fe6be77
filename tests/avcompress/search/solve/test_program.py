import ctypes
import itertools
import os
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from avcompress.search.solve.greedy import solve_greedily
from avcompress.search.solve.problem import Budget, Link, Problem
from avcompress.search.solve.program import solve_exactly
from avcompress.spec import DataError

PRECISIONS = ("fp32", "fp16", "int8", "fp8")


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    seed, groups = draw(st.integers(0, 2**32 - 1)), draw(st.integers(1, 5))
    random = np.random.default_rng(seed)
    counts = [draw(st.integers(1, 4)) for _ in range(groups)]
    pairs = draw(st.sets(st.sampled_from(list(itertools.combinations(range(groups), 2)) or [(0, 0)]), max_size=6))
    # Losses over six decades, some of them gains, or over eleven; ties, where numbers are rounded.
    digits = draw(st.sampled_from([1, 12]))
    least, gain = draw(st.sampled_from([(-6, 0.01), (-9, 0.0)]))
    losses = tuple(np.round(10 ** random.uniform(least, -least // 4, n) - gain, digits) for n in counts)
    times = tuple(np.round(random.uniform(0, 2, n), digits) for n in counts)
    links = tuple(
        Link(a, b, np.round(random.uniform(0, 1, (counts[a], counts[b])), digits)) for a, b in sorted(pairs) if a != b
    )
    names = tuple(f"g{i}" for i in range(groups))
    return Problem(names, tuple(PRECISIONS[:n] for n in counts), losses, times, links, fixed_ms=0.5)


def every_choice(problem: Problem) -> list[tuple[int, ...]]:
    return list(itertools.product(*(range(len(own)) for own in problem.options)))


@settings(max_examples=30)
@given(problem=problems(), share=st.floats(0, 1), by_time=st.booleans())
def test_the_program_finds_what_trying_every_choice_finds(problem, share, by_time):
    choices = every_choice(problem)
    losses, times = [problem.loss(c) for c in choices], [problem.taken_ms(c) for c in choices]
    limited, least = (times, losses) if by_time else (losses, times)
    limit = min(limited) + share * (max(limited) - min(limited))
    best = min(value for value, kept in zip(least, limited, strict=True) if kept <= limit + 1e-9 * abs(limit))

    found = solve_exactly(problem, Budget(ms=limit) if by_time else Budget(loss=limit))

    assert found.proven
    made, kept = (found.loss, found.ms) if by_time else (found.ms, found.loss)
    own = problem.ms if by_time else problem.losses
    room = limit - sum(float(each.min()) for each in own)
    assert kept <= limit + 2e-6 * room + 1e-8 * abs(limit)
    assert made == pytest.approx(best, rel=1e-5, abs=2e-6)
    assert (found.loss, found.ms) == (problem.loss(found.choice), problem.taken_ms(found.choice))


def test_a_budget_that_is_small_beside_the_largest_loss_is_kept():
    losses = (np.array([0.0, 4e-8]), np.array([0.0, 3e-8]), np.array([0.0, 90.0]))
    times = (np.array([1.0, 0.1]), np.array([1.0, 0.3]), np.array([1.0, 0.2]))
    problem = Problem(("a", "b", "c"), (("fp32", "int8"),) * 3, losses, times)

    assert solve_exactly(problem, Budget(loss=5e-8)).choice == (1, 0, 0)
    assert solve_exactly(problem, Budget(loss=7e-8)).choice == (1, 1, 0)
    assert solve_exactly(problem, Budget(loss=0.0)).choice == (0, 0, 0)


@settings(max_examples=30)
@given(problem=problems(), share=st.floats(0, 1))
def test_a_greedy_choice_keeps_its_budget_and_is_no_better_than_the_best(problem, share):
    times = [problem.taken_ms(choice) for choice in every_choice(problem)]
    budget = Budget(ms=min(times) + share * (max(times) - min(times)))

    try:
        found = solve_greedily(problem, budget)
    except DataError:
        assume(False)

    assert found.ms <= budget.ms
    assert found.loss >= solve_exactly(problem, budget).loss - 2e-6


@settings(max_examples=30)
@given(problem=problems(), share=st.floats(0, 1))
def test_a_greedy_choice_keeps_a_budget_of_loss(problem, share):
    losses = [problem.loss(choice) for choice in every_choice(problem)]
    budget = Budget(loss=min(losses) + share * (max(losses) - min(losses)))

    found = solve_greedily(problem, budget)

    assert found.loss <= budget.loss + 1e-12


def chain(convert_ms: float) -> Problem:
    """Three layers in a row; the middle one is sensitive, and INT8 halves every time."""
    cost = np.array([[0.0, convert_ms], [convert_ms, 0.0]])
    return Problem(
        names=("a", "b", "c"),
        options=(("fp32", "int8"),) * 3,
        losses=(np.array([0, 1.0]), np.array([0, 5.0]), np.array([0, 1.0])),
        ms=(np.array([2.0, 1.0]),) * 3,
        links=(Link(0, 1, cost), Link(1, 2, cost)),
    )


def test_dear_conversions_keep_neighbours_in_one_precision():
    cheap, dear = (solve_exactly(chain(cost), Budget(ms=4.6)) for cost in (0.1, 1.0))

    # 1 + 2 + 1 and two conversions of 0.1; with conversions of 1 only all three in INT8 keep 4.6.
    assert (cheap.choice, cheap.loss, cheap.ms) == ((1, 0, 1), 2.0, pytest.approx(4.2))
    assert (dear.choice, dear.loss, dear.ms) == ((1, 1, 1), 7.0, pytest.approx(3.0))


def test_the_least_time_for_a_loss_counts_conversions():
    assert solve_exactly(chain(0.1), Budget(loss=2.5)).choice == (1, 0, 1)
    assert solve_exactly(chain(0.9), Budget(loss=1.5)).choice in {(1, 0, 0), (0, 0, 1)}
    assert solve_exactly(chain(1.1), Budget(loss=2.5)).choice == (0, 0, 0)


@pytest.mark.parametrize("budget", [Budget(loss=10), Budget(ms=4)])
def test_the_greedy_choice_finds_a_run_of_neighbours_of_which_no_single_one_is_faster(budget):
    # Each single layer in INT8 takes longer by its conversions; all three together take half.
    assert solve_greedily(chain(1.1), budget).choice == (1, 1, 1)
    assert solve_exactly(chain(1.1), budget).choice == (1, 1, 1)


def test_the_greedy_choice_is_the_least_loss_for_each_saved_millisecond():
    # Each saves 1 ms: a and c lose 1, b loses 5.
    assert solve_greedily(chain(0.0), Budget(ms=5)).choice in {(1, 0, 0), (0, 0, 1)}
    assert solve_greedily(chain(0.0), Budget(ms=4)).choice == (1, 0, 1)
    assert solve_greedily(chain(0.0), Budget(loss=6.5)).choice == (1, 0, 1)


@pytest.mark.parametrize("solve", [solve_exactly, solve_greedily])
def test_a_budget_that_nothing_keeps_is_refused_with_the_best_there_is(solve):
    with pytest.raises(DataError, match=r"expected precisions that keep 2\.9 ms, got 3 at best of 3 groups"):
        solve(chain(0.0), Budget(ms=2.9))


def test_a_budget_is_of_time_or_of_loss():
    with pytest.raises(ValueError, match="either milliseconds or loss"):
        Budget()
    with pytest.raises(ValueError, match="either milliseconds or loss"):
        Budget(ms=1, loss=1)


def test_equal_problems_have_equal_solutions():
    problem = chain(0.0)

    assert solve_exactly(problem, Budget(ms=5)).choice == solve_exactly(chain(0.0), Budget(ms=5)).choice


@settings(max_examples=30)
@given(problem=problems(), share=st.floats(0.01, 1.0))
def test_a_share_of_the_macs_is_quantized_at_the_least_loss(problem, share):
    """Brute force over all choices."""
    rng = np.random.default_rng(len(problem.names))
    shares = tuple(rng.random(len(own)) / len(problem.names) for own in problem.losses)
    problem = replace(problem, shares=shares)
    able = [choice for choice in every_choice(problem) if problem.share(choice) >= share]
    budget = Budget(ms=problem.most_ms, share=share)
    if not able:
        with pytest.raises(DataError, match="of the MACs quantized, at most"):
            solve_exactly(problem, budget)
        return

    found = solve_exactly(problem, budget)

    assert problem.share(found.choice) >= share - 1e-6
    assert found.loss <= min(map(problem.loss, able)) + 1e-6 * max(1.0, found.loss)
    greedy = solve_greedily(problem, budget)
    assert problem.share(greedy.choice) >= share - 1e-6
    assert greedy.loss >= found.loss - 1e-6 * max(1.0, abs(found.loss))


def test_the_solver_prints_nothing(capfd):
    from avcompress.search.solve.program import _silenced

    with _silenced():
        os.write(1, b"HighsMipSolverData::transformNewIntegerFeasibleSolution\n")
        ctypes.CDLL(None).puts(b"what C keeps until its buffer is full")
    ctypes.CDLL(None).fflush(None)
    os.write(1, b"heard\n")

    assert capfd.readouterr().out == "heard\n"
