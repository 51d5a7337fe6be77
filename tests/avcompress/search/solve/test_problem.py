import numpy as np
import pytest

from avcompress.search.groups import OUTSIDE, Group, Layout, Passage
from avcompress.search.latency.table import Conversion, PrecisionTable
from avcompress.search.sensitivity.values import Sensitivity
from avcompress.search.solve.problem import Budget, problem_of
from avcompress.search.solve.program import solve_exactly
from avcompress.spec import DataError

LAYOUT = Layout(
    groups=(Group("a", ("a", "a2"), 10), Group("b", ("b",), 20)),
    passages=(
        Passage(OUTSIDE, "a", 1e6),
        Passage("a", "b", 2e6),
        Passage("b", "a", 3e6),  # not a network's, but a passage may go either way between groups
        Passage("b", OUTSIDE, 4e6),
    ),
)
CHOICES = {"a": ("fp32", "int8"), "b": ("fp32", "int8", "fp16")}
TABLE = PrecisionTable(
    network="0" * 64,
    estimate=True,
    machine="none",
    layers_ms={
        "a": {"fp32": 4.0, "int8": 1.0},
        "a2": {"fp32": 2.0, "int8": 1.0},
        "b": {"fp32": 8.0, "int8": 2.0, "fp16": 4.0},
    },
    others_ms=0.5,
    conversions=tuple(
        Conversion(of=of, to=to, call_ms=0.0, million_ms=ms)
        for of, to, ms in [
            ("fp32", "int8", 0.1), ("int8", "fp32", 0.01), ("fp32", "fp16", 0.2), ("fp16", "fp32", 0.02),
            ("int8", "fp16", 0.3), ("fp16", "int8", 0.03),
        ]
    ),
)  # fmt: skip
SENSITIVITY = Sensitivity("output", {"a": {"int8": 3.0}, "b": {"int8": 5.0, "fp16": 0.5}}, images=1)


def test_a_problem_adds_up_layers_passages_and_what_comes_from_outside():
    problem = problem_of(LAYOUT, CHOICES, SENSITIVITY, TABLE)

    choice = problem.choice({"a": "int8", "b": "fp16"})

    assert problem.loss(choice) == 3.5
    # Layers 2 and 4, outside to a 0.1, a to b 2 * 0.3, b to a 3 * 0.03, b to outside 4 * 0.02, others 0.5.
    assert problem.taken_ms(choice) == pytest.approx(2 + 4 + 0.1 + 0.6 + 0.09 + 0.08 + 0.5)
    assert problem.assignment(choice) == {"a": "int8", "b": "fp16"}
    assert problem.taken_ms(problem.choice({"a": "fp32", "b": "fp32"})) == pytest.approx(14.5)


def test_the_best_choice_of_it_is_an_assignment():
    problem = problem_of(LAYOUT, CHOICES, SENSITIVITY, TABLE)

    found = solve_exactly(problem, Budget(loss=4.0))

    assert problem.assignment(found.choice) == {"a": "int8", "b": "fp16"}


def test_a_loss_or_a_time_that_nobody_measured_is_refused():
    missing = Sensitivity("output", {"a": {"int8": 3.0}}, images=1)
    with pytest.raises(DataError, match="what group 'b' loses in int8"):
        problem_of(LAYOUT, CHOICES, missing, TABLE)

    timeless = TABLE.model_copy(update={"layers_ms": {"a": {"fp32": 1.0, "int8": 1.0}, "a2": {"fp32": 1.0}}})
    with pytest.raises(DataError, match="what layer 'a2' takes in int8"):
        problem_of(LAYOUT, CHOICES, SENSITIVITY, timeless)


def test_losses_and_times_are_in_the_order_of_the_options():
    problem = problem_of(LAYOUT, CHOICES, SENSITIVITY, TABLE)

    assert problem.options == (("fp32", "int8"), ("fp32", "int8", "fp16"))
    assert np.array_equal(problem.losses[1], [0.0, 5.0, 0.5])
