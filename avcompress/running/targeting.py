"""What pruning has to know of a recipe's targets: the widths that their kernels like, and whose latency counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from avcompress.recipe import Cast, Engine, OrtEngine, Ptq, Recipe, RtxEngine, TrtEngine
from avcompress.spec import Precision, RecipeError
from engines.profile_load import load_profile

CPU = 8
"""Eight floats fill a 256-bit vector; runtimes store tensors in blocks of them."""
GPU = {"int8": 32, "fp16": 8}
"""What all shipped profiles of GPUs say. Source: TensorRT developer guide, Optimizing for Tensor Cores."""


def alignment_of(recipe: Recipe) -> int:
    """The widest of the recipe's engines."""
    precision = "int8" if any(isinstance(stage, Ptq) for stage in recipe.stages) else "fp16"
    return max(_of_engine(engine, precision) for engine in recipe.target.engines)


def _of_engine(engine: Engine, precision: str) -> int:
    if engine.backend in {"ort", "openvino"}:
        return CPU
    known: Mapping[str, int] = {}
    if isinstance(engine, TrtEngine) and engine.target is not None:
        profile = load_profile(engine.target).profile
        own = profile.dla if engine.dla is not None and profile.dla is not None else profile
        known = {str(kind): channels for kind, channels in own.channel_alignment.items()}
    return known.get(precision, GPU[precision])


def cast_of(recipe: Recipe) -> Cast | None:
    """The stage that casts what is float, where there is one."""
    return next((stage for stage in recipe.stages if isinstance(stage, Cast)), None)


def offered(recipe: Recipe, stage: Ptq) -> tuple[Precision, ...]:
    """What a `ptq` that chooses may put layers into: FP32, what a `cast` makes of that, what it quantizes to."""
    cast, formats = cast_of(recipe), None if stage.mixed is None else stage.mixed.formats
    halves: tuple[Precision, ...] = () if cast is None else (cast.format,)
    return ("fp32", *halves, *(formats or (stage.format,)))


def engine_of(engines: Sequence[Engine], backend: str | None, where: str) -> Engine:
    """The engine whose latency counts; raises RecipeError.

    Where none is named it is the first one that runs here and is not there as the numeric reference, if there is any.
    """
    running = [engine for engine in engines if not isinstance(engine, RtxEngine)]
    named = [engine for engine in running if backend in {None, engine.backend}]
    if not named:
        got = ", ".join(engine.backend for engine in engines)
        raise RecipeError(
            f"{where}.backend: expected {backend or 'an engine'} among target.engines, one that runs here, got "
            f"{got}; add it there, or name another"
        )
    counting = [engine for engine in named if not (isinstance(engine, OrtEngine) and engine.is_reference)]
    return (counting or named)[0]
