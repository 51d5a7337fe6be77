"""Products of two tensors, summed over the dimensions they share: MatMul, Gemm, Einsum, and what a convolution is.

Each dimension is a letter, as einsum has them. A letter that is summed over ties the operands; one that is kept passes
its channels on. A constant operand has channels along its own letters: those that only it has are new outputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from avcompress.onnx_import.operand import Operand
from avcompress.prune.labels import NONE, Labels, expanded, units, varying
from avcompress.prune.rules.step import Part, Rule, Step, none

_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True, eq=False)
class Factor:
    """One operand: its letters, and its labels, which vary along one of them at most; None of a constant."""

    operand: Operand
    letters: str
    labels: Labels | None

    def size(self, letter: str) -> int:
        """The number of positions along a letter."""
        return self.operand.shape[self.letters.index(letter)]

    def varies(self, letter: str) -> bool:
        """Whether channels lie along a letter."""
        if self.labels is None or letter not in self.letters:
            return False
        return bool(self.labels.shape[self.letters.index(letter)] > 1)


def contract(step: Step, operands: Sequence[Operand], letters: Sequence[str], result: str) -> Labels:
    """The labels of a product.

    Args:
        step: the node.
        operands: two, one of them constant perhaps.
        letters: of each operand, one for each of its dimensions.
        result: of the output.
    """
    ranks = _ranks(letters, result)
    factors = [_factor(step, operand, own, ranks) for operand, own in zip(operands, letters, strict=True)]
    new = [letter for letter in result if _is_new(factors, letter)]
    passed = [letter for letter in result if _passes(factors, letter)]
    shared = [letter for letter in ranks if any(letter in f.letters and f.labels is not None for f in factors)]
    found = {letter: _tied(step, factors, letter) for letter in [*shared, *new]}
    for letter in [*passed, *new][1:]:
        step.stays("has other channels beside them, that pass through it", found[letter])
    kept = [*passed, *new][:1]
    shape = [found[letter].size if letter in kept else 1 for letter in result]
    return found[kept[0]].reshape(shape) if kept else none(len(result))


def _ranks(letters: Sequence[str], result: str) -> dict[str, int]:
    """Which letters an operand keeps its channels along first: summed ones, then its own, then those of a batch."""
    ranks: dict[str, int] = {}
    for letter in "".join(letters):
        shared = sum(letter in own for own in letters) > 1
        ranks[letter] = 2 if letter not in result else 0 if shared else 1
    return ranks


def _factor(step: Step, operand: Operand, letters: str, ranks: dict[str, int]) -> Factor:
    if operand.value is not None:
        return Factor(operand, letters, None)
    labels = step.part_of(operand).labels
    axes = varying(labels)
    best = max(axes, key=lambda axis: (ranks[letters[axis]], units(labels, axis), axis), default=None)
    return Factor(operand, letters, step.atoms.along_one_axis(labels, step.name, best))


def _passes(factors: Sequence[Factor], letter: str) -> bool:
    """Whether all activations that have a letter have channels along it, but for those that are broadcast."""
    own = [factor for factor in factors if letter in factor.letters and factor.labels is not None]
    return any(f.varies(letter) for f in own) and all(f.varies(letter) or f.size(letter) == 1 for f in own)


def _is_new(factors: Sequence[Factor], letter: str) -> bool:
    """Whether a letter of the result lies in a weight alone: its outputs.

    A constant of more than two dimensions on the left is no weight but what queries or a grid were folded to.
    """
    own = [factor for factor in factors if letter in factor.letters]
    stacked = factors[0].labels is None and factors[0].operand.rank > 2
    return bool(own) and all(factor.labels is None for factor in own) and not stacked


def _tied(step: Step, factors: Sequence[Factor], letter: str) -> Labels:
    """Tie what operands have along a letter; the labels there, (size,)."""
    own = [factor for factor in factors if letter in factor.letters]
    size = max(factor.size(letter) for factor in own)
    arrays = [labels for factor in own if factor.size(letter) == size for labels in _along(step, factor, letter, own)]
    for array in arrays[1:]:
        step.atoms.unite(arrays[0], array, step.name)
    return arrays[0] if arrays else np.array([NONE])


def _along(step: Step, factor: Factor, letter: str, own: Sequence[Factor]) -> Iterator[Labels]:
    axis = factor.letters.index(letter)
    if factor.labels is None:
        yield step.along(factor.operand, axis)
    elif factor.varies(letter):
        yield factor.labels.reshape(-1)
    elif any(other.varies(letter) or other.labels is None for other in own):
        # Its channels lie elsewhere, or it has none: along this letter all of it stays.
        yield np.full(factor.size(letter), NONE) if varying(factor.labels) else _single(factor, letter)


def _single(factor: Factor, letter: str) -> Labels:
    labels = factor.labels.reshape(-1) if factor.labels is not None else np.array([NONE])
    return expanded(labels, 0, factor.size(letter))


def letters_for(count: int, taken: str = "") -> str:
    """So many letters that are not taken."""
    return "".join(letter for letter in _LETTERS if letter not in taken)[:count]


def _matmul(step: Step) -> tuple[Labels, ...]:
    left, right = step.node.x, step.node.required(1)
    batch = letters_for(max(left.rank, right.rank), "xyz")
    own = [batch[len(batch) - max(rank - 2, 0) :] for rank in (left.rank, right.rank)]
    outer = max(own, key=len)
    rows, columns = "x" if left.rank > 1 else "", "z" if right.rank > 1 else ""
    return (contract(step, (left, right), (own[0] + rows + "y", own[1] + "y" + columns), outer + rows + columns),)


def _gemm(step: Step) -> tuple[Labels, ...]:
    node = step.node
    left = "ym" if node.attribute("transA", 0) else "my"
    right = "ny" if node.attribute("transB", 0) else "yn"
    labels = contract(step, (node.x, node.required(1)), (left, right), "mn")
    bias = node.optional(2)
    parts = [Part(labels, step.shape(0)), *([] if bias is None else [step.part_of(bias)])]
    return (step.join(parts),)


def _einsum(step: Step) -> tuple[Labels, ...]:
    equation = step.node.attribute("equation").replace(" ", "")
    operands = [operand for operand in step.node.inputs if operand is not None]
    given, _, result = equation.partition("->")
    letters = given.split(",")
    if "." in equation or not result or len(operands) != 2 or any(len(set(own)) < len(own) for own in letters):
        step.stays("has a form that pruning does not follow", *(step.part_of(o).labels for o in operands))
        return (none(len(step.shape(0))),)
    return (contract(step, operands, letters, result),)


RULES: dict[str, Rule] = {"Einsum": _einsum, "Gemm": _gemm, "MatMul": _matmul}
