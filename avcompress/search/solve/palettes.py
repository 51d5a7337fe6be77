"""Choices that a recipe can say: one quantized precision at most, one 16-bit float, and FP32.

One stage quantizes a network, and one casts what is float. Where more are offered, each pair of a quantized and a
16-bit precision is a palette, and a problem of its own; what is best is looked for in all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import product

import numpy as np

from avcompress.search.assignment import HALVES, QUANTIZED
from avcompress.search.solve.front import unbeaten
from avcompress.search.solve.problem import Link, Problem, Solution
from avcompress.spec import DataError, Precision


def palettes(problem: Problem) -> tuple[Problem, ...]:
    """The problem with one quantized and one 16-bit precision left, for each pair of those that are offered."""
    offered = {precision for own in problem.options for precision in own}
    # Where none of a kind is offered, FP32 stands for it.
    kinds = [[each for each in kind if each in offered] or ["fp32"] for kind in (QUANTIZED, HALVES)]
    return tuple(_only(problem, {"fp32", *pair}) for pair in product(*kinds))


def over_palettes(problem: Problem, solve: Callable[[Problem], Iterable[Solution]]) -> tuple[Solution, ...]:
    """What `solve` finds in each palette, as choices of the whole problem: those that no other one beats.

    Raises the DataError of the first palette where `solve` raises one for all of them.
    """
    found: list[Solution] = []
    refused: list[DataError] = []
    for palette in palettes(problem):
        try:
            made = tuple(solve(palette))
        except DataError as error:
            refused.append(error)
            continue
        found += (replace(each, choice=problem.choice(palette.assignment(each.choice))) for each in made)
    if not found and refused:
        raise refused[0]
    return unbeaten(found)


def _only(problem: Problem, left: set[Precision]) -> Problem:
    """The problem without other options than these."""
    kept = [np.array([number for number, each in enumerate(own) if each in left]) for own in problem.options]
    return Problem(
        names=problem.names,
        options=tuple(
            tuple(own[number] for number in numbers) for own, numbers in zip(problem.options, kept, strict=True)
        ),
        losses=tuple(own[numbers] for own, numbers in zip(problem.losses, kept, strict=True)),
        ms=tuple(own[numbers] for own, numbers in zip(problem.ms, kept, strict=True)),
        links=tuple(
            Link(link.first, link.second, link.ms[np.ix_(kept[link.first], kept[link.second])])
            for link in problem.links
        ),
        fixed_ms=problem.fixed_ms,
        shares=tuple(own[numbers] for own, numbers in zip(problem.shares, kept, strict=False)),
    )
