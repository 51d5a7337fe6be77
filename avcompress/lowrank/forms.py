"""What a layer can become: each method as a product of factors, each factor a node.

A layer's weight is W (M, C, kh, kw), a matrix product one of a kernel of 1x1. The axes of a factor are letters, in the
order of a convolution's weight: m outputs, c inputs, i and j the kernel's rows and columns, the others ranks. The
weight that the factors stand for is their sum over the ranks: for `spatial_svd`, W[m,c,i,j] = sum over r of
first[r,c,i] last[m,r,j].

Source: svd: Zhang, Zou, He, Sun, arXiv:1505.06798; spatial_svd: Jaderberg, Vedaldi, Zisserman, arXiv:1405.3866;
tucker2: Kim et al., arXiv:1511.06530; cp: Lebedev et al., arXiv:1412.6553.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from avcompress.recipe_lowrank import Method
from avcompress.spec import RecipeError

Floats = NDArray[np.float32]
Ranks = tuple[int, ...]
Shape = tuple[int, int, int, int]
"""M, C, kh, kw."""
WEIGHT = "mcij"


class Factor(NamedTuple):
    """One node of a factorized layer.

    Attributes:
        name: what is appended to the layer's name.
        axes: of its tensor.
    """

    name: str
    axes: str

    @property
    def depthwise(self) -> bool:
        """Whether it filters every channel by itself."""
        return len(set(self.axes) - set("ij")) == 1


FORMS: Mapping[Method, tuple[Factor, ...]] = MappingProxyType(
    {
        "svd": (Factor("first", "rcij"), Factor("last", "mr")),
        "spatial_svd": (Factor("first", "rci"), Factor("last", "mrj")),
        "tucker2": (Factor("first", "sc"), Factor("core", "tsij"), Factor("last", "mt")),
        "cp": (Factor("first", "rc"), Factor("core/rows", "ri"), Factor("core/columns", "rj"), Factor("last", "mr")),
    }
)
"""The nodes of each method, in the order in which they run."""


@dataclass(frozen=True)
class Extent:
    """How far a layer's values reach: of a matrix product, as many rows as it has, and one column.

    Attributes:
        inputs, outputs: rows and columns.
        images: in a batch.
    """

    inputs: tuple[int, int]
    outputs: tuple[int, int]
    images: int = 1


def suitable(shape: Shape) -> tuple[Method, ...]:
    """The methods that take a layer of this shape apart into what is another layer, the simplest first."""
    kernel = shape[2:]
    if kernel == (1, 1):
        return ("svd",)
    return ("svd", "tucker2") if 1 in kernel else ("svd", "spatial_svd", "tucker2", "cp")


def highest(method: Method, shape: Shape) -> Ranks:
    """The ranks at which the factors can be any weight of this shape; higher ones only cost time."""
    outputs, inputs, rows, columns = shape
    match method:
        case "svd":
            return (min(outputs, inputs * rows * columns),)
        case "spatial_svd":
            return (min(inputs * rows, outputs * columns),)
        case "tucker2":
            return (min(inputs, outputs * rows * columns), min(outputs, inputs * rows * columns))
        case "cp":
            return (int(np.prod(shape)) // max(shape),)


def check_ranks(where: str, method: Method, shape: Shape, ranks: Ranks) -> None:
    """Raise RecipeError for ranks that are not from 1 to the highest."""
    limits = highest(method, shape)
    if len(ranks) != len(limits) or not all(1 <= rank <= limit for rank, limit in zip(ranks, limits, strict=True)):
        allowed = " and ".join(f"1 to {limit}" for limit in limits)
        raise RecipeError(
            f"{where}, {method} of {'x'.join(map(str, shape))}: expected a rank of {allowed}, got "
            f"{' and '.join(map(str, ranks))}; give a smaller one, or leave the layer out by `exclude`"
        )


def factor_shapes(method: Method, shape: Shape, ranks: Ranks) -> tuple[tuple[int, ...], ...]:
    """The shape of each factor's tensor."""
    sizes = _sizes(method, shape, ranks)
    return tuple(tuple(sizes[letter] for letter in factor.axes) for factor in FORMS[method])


def _sizes(method: Method, shape: Shape, ranks: Ranks) -> dict[str, int]:
    letters = ("s", "t") if method == "tucker2" else ("r",)
    return {**dict(zip(WEIGHT, shape, strict=True)), **dict(zip(letters, ranks, strict=True))}


def layer_macs(shape: Shape, extent: Extent) -> int:
    """Multiply-accumulates of the layer as it was."""
    return int(np.prod(shape)) * extent.images * int(np.prod(extent.outputs))


def factor_macs(method: Method, shape: Shape, ranks: Ranks, extent: Extent) -> int:
    """Multiply-accumulates of all factors; strides are taken by those that have the kernel's rows and columns."""
    total, height, width = 0, *extent.inputs
    for factor, sizes in zip(FORMS[method], factor_shapes(method, shape, ranks), strict=True):
        height = extent.outputs[0] if "i" in factor.axes else height
        width = extent.outputs[1] if "j" in factor.axes else width
        total += int(np.prod(sizes)) * height * width
    return total * extent.images


def composed(method: Method, factors: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """The weight that the factors stand for, (M, C, kh, kw)."""
    axes = [factor.axes for factor in FORMS[method]]
    weight: NDArray[Any] = np.einsum(f"{','.join(axes)}->{WEIGHT}", *factors, optimize=True)
    return weight


def projected(method: Method, factors: Sequence[NDArray[Any]], index: int, weight: NDArray[Any]) -> NDArray[Any]:
    """The adjoint of `composed` in one factor: a weight multiplied by all the others, summed to that one's axes."""
    axes = [factor.axes for factor in FORMS[method]]
    others = [number for number in range(len(axes)) if number != index]
    terms = ",".join([*(axes[number] for number in others), WEIGHT])
    made: NDArray[Any] = np.einsum(
        f"{terms}->{axes[index]}", *(factors[number] for number in others), weight, optimize=True
    )
    return made
