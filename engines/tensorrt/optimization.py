"""Optimization profiles: which shapes a dynamic input may have, written by people and held against the graph.

TensorRT answers a bad profile with None, -1 and a line in its log: all that can be wrong is found here, before.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from avcompress.spec import EngineBuildError, RecipeError
from engines.tensorrt.settings import InputShapes, Profile

if TYPE_CHECKING:
    import onnx

Symbolic = tuple[int | str, ...]
"""A shape as a graph states it: a number, or the name of a dimension; "" where it has none."""
STAGE = "profile"
_SHAPE = re.compile(r"[1-9]\d*(x[1-9]\d*)*")
_EXAMPLE = "images:1x3x416x416, or the smallest, the usual and the largest: images:1x3x416x416,images:1x3x640x640,..."


def parse_profile(text: str) -> Profile:
    """Read `name:1x3x416x416`, once or three times (smallest, optimum, largest) for each input, between commas.

    Raises RecipeError.
    """
    given: dict[str, list[tuple[int, ...]]] = {}
    for part in text.split(","):
        name, _, shape = part.strip().rpartition(":")
        if not name or not _SHAPE.fullmatch(shape):
            raise RecipeError(f"--shapes: expected NAME:1x3x416x416, got {part.strip()!r}; write {_EXAMPLE}")
        given.setdefault(name, []).append(tuple(int(size) for size in shape.split("x")))
    return {name: _input_shapes(name, shapes) for name, shapes in given.items()}


def _input_shapes(name: str, shapes: Sequence[tuple[int, ...]]) -> InputShapes:
    if len(shapes) not in {1, 3}:
        raise RecipeError(
            f"--shapes, input {name!r}: expected one shape, or three (smallest, optimum, largest), got {len(shapes)}; "
            f"write {_EXAMPLE}"
        )
    return InputShapes(minimum=shapes[0], optimum=shapes[len(shapes) // 2], maximum=shapes[-1])


def graph_shapes(model: onnx.ModelProto) -> dict[str, Symbolic]:
    """The shapes of a graph's inputs, initializers left out."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return {
        value.name: tuple(
            dim.dim_value if dim.dim_value > 0 else dim.dim_param for dim in value.type.tensor_type.shape.dim
        )
        for value in model.graph.input
        if value.name not in constants
    }


def check_profiles(name: str, inputs: Mapping[str, Symbolic], profiles: Sequence[Profile], static: bool) -> None:
    """Raise EngineBuildError unless every profile fits the graph's inputs, and every dynamic input has shapes in each.

    Args:
        name: of the file, for the message.
        inputs: the graph's own shapes.
        profiles: none where no input is dynamic.
        static: whether each input must have one shape only, as DLA wants it.
    """
    dynamic = [each for each, shape in inputs.items() if any(isinstance(size, str) for size in shape) or not shape]
    if dynamic and not profiles:
        shown = ", ".join(f"{each} ({_spell(inputs[each])})" for each in dynamic)
        raise EngineBuildError(
            STAGE,
            f"{name}: expected shapes for the dynamic inputs {shown}, got none; give --shapes, as "
            f"{_proposal(dynamic[0], inputs[dynamic[0]])}",
        )
    for index, profile in enumerate(profiles):
        problem = next(_problems(inputs, dynamic, profile, static), None)
        if problem is not None:
            which = f"{name}, --shapes" if len(profiles) == 1 else f"{name}, --shapes number {index + 1}"
            raise EngineBuildError(STAGE, f"{which}: {problem}")


def _problems(inputs: Mapping[str, Symbolic], dynamic: Iterable[str], profile: Profile, static: bool) -> Iterator[str]:
    known = ", ".join(inputs)
    yield from (
        f"expected inputs of the graph ({known}), got {each!r}; mend it"
        for each in sorted(profile.keys() - inputs.keys())
    )
    yield from (f"expected shapes for {each!r} too, got none; add them" for each in dynamic if each not in profile)
    for each, shapes in profile.items():
        yield from _misfits(each, inputs.get(each, ()), shapes)
        if static and not shapes.minimum == shapes.optimum == shapes.maximum:
            yield f"input {each!r}: expected one shape, DLA takes no dynamic ones, got several; give one"
    yield from _disagreements(inputs, profile)


def _misfits(name: str, stated: Symbolic, shapes: InputShapes) -> Iterator[str]:
    """What is wrong with the three shapes of one input."""
    for shape in (shapes.minimum, shapes.optimum, shapes.maximum):
        fits = len(shape) == len(stated) and all(
            isinstance(want, str) or have == want for have, want in zip(shape, stated, strict=True)
        )
        if not fits:
            yield f"input {name!r}: expected a shape that fits {_spell(stated)}, got {_spell(shape)}; mend it"
            return
    sizes = zip(shapes.minimum, shapes.optimum, shapes.maximum, strict=True)
    if not all(low <= usual <= high for low, usual, high in sizes):
        got = " .. ".join(_spell(shape) for shape in (shapes.minimum, shapes.optimum, shapes.maximum))
        yield f"input {name!r}: expected smallest <= optimum <= largest in every dimension, got {got}; order them"


def _disagreements(inputs: Mapping[str, Symbolic], profile: Profile) -> Iterator[str]:
    """Dimensions of one name that differ between inputs."""
    sizes: dict[str, tuple[str, tuple[int, int, int]]] = {}
    for each, shapes in profile.items():
        triples = zip(shapes.minimum, shapes.optimum, shapes.maximum, strict=True)
        for symbol, triple in zip(inputs[each], triples, strict=True):
            if not isinstance(symbol, str) or not symbol:
                continue
            first, known = sizes.setdefault(symbol, (each, triple))
            if known != triple:
                yield (
                    f"dimension {symbol!r}: expected one size in all inputs, got {known} in {first!r} and {triple} in "
                    f"{each!r}; make them equal"
                )


def _spell(shape: Sequence[int | str]) -> str:
    return "x".join(str(size) or "?" for size in shape) or "no dimensions"


def _proposal(name: str, shape: Symbolic) -> str:
    sizes = (size if isinstance(size, int) else 1 if index == 0 else 640 for index, size in enumerate(shape))
    return f"{name}:{'x'.join(map(str, sizes))}"
