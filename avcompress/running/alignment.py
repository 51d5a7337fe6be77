"""How many channels a target's kernels compute together: the widths that a pruned layer had better have."""

from __future__ import annotations

from avcompress.recipe import Engine, Ptq, Recipe, TrtEngine
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
    known = dict(GPU)
    if isinstance(engine, TrtEngine) and engine.target is not None:
        profile = load_profile(engine.target).profile
        on_dla = engine.dla is not None and profile.dla is not None
        known |= profile.dla.channel_alignment if on_dla and profile.dla else profile.channel_alignment
    return int(known[precision])
