"""From a recipe to the statistics of its calibration images, for `ptq` stages here or on another machine."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import onnx

from avcompress.float_network import float_network
from avcompress.quant.apply import apply
from avcompress.quant.observe import observe
from avcompress.quant.plan import prepare
from avcompress.quant.stages.ptq import candidates
from avcompress.recipe import Equalize, FloatTraining, Ptq, Recipe, Shrinking, Smooth
from avcompress.spec import Artifact, RecipeError, Track, untracked
from calibration.batches import Batches
from calibration.part import take_part
from calibration.preprocess import check_preprocess
from calibration.ranges import range_from
from calibration.source import open_source
from calibration.statistics import Statistics
from engines.dialects.prepare import float_tensors
from engines.onnx_graph import shapes


class Part(NamedTuple):
    """One of several equal shares of the images: the `number`-th, from 1 on."""

    number: int
    of: int


WHOLE = Part(1, 1)


def parse_part(text: str) -> Part:
    """Read K/N; raises RecipeError."""
    number, slash, of = text.partition("/")
    if not slash or not number.isdecimal() or not of.isdecimal() or not 1 <= int(number) <= int(of):
        raise RecipeError(f"--part: expected K/N with K from 1 to N, got {text!r}; write 2/4 for the second of four")
    return Part(int(number), int(of))


def collect(
    recipe: Recipe,
    recipe_folder: Path,
    data_root: Path,
    part: Part = WHOLE,
    track: Track = untracked,
    everything: bool = False,
) -> Statistics:
    """Gather the statistics of every tensor that some `ptq` stage may want, after the stages that come before it.

    Engines and validation data are not needed. With `everything`, all float activations are among the tensors.

    Raises RecipeError, DataError or ModelError.
    """
    if not any(isinstance(stage, Ptq) for stage in recipe.stages):
        raise RecipeError("stages: expected `ptq`, got none; nothing else needs statistics")
    making = next((stage for stage in recipe.stages if isinstance(stage, FloatTraining | Shrinking)), None)
    if making is not None:
        # Each machine would make a network of its own.
        raise RecipeError(
            f"stages: expected a network that is {'trained' if isinstance(making, FloatTraining) else 'made smaller'} "
            f"already, got `{making.kind}`; "
            "run the recipe without --resume, and give the network that it made"
        )
    check_preprocess(recipe.preprocess)
    source = open_source(recipe.data.calibration, data_root, recipe.classes)
    share = take_part(source, *part)
    artifact = Artifact(float_network(recipe, recipe_folder, data_root))
    name = artifact.model.graph.input[0].name
    for stage in recipe.stages:
        if isinstance(stage, Equalize | Smooth):
            # On all images, whatever the part: the network must be the same everywhere.
            artifact = apply(stage, artifact, Batches(source, recipe.preprocess, name))
    model = prepare(artifact.model)
    wanted = (*candidates(model), *(activations(model) if everything else ()))
    return observe(model, wanted, Batches(share, recipe.preprocess, name, track))


def activations(model: onnx.ModelProto) -> tuple[str, ...]:
    """The float tensors that a prepared network takes or computes, in graph order, but those without a value."""
    floats, sizes = float_tensors(model), shapes(model)
    made = [name for node in model.graph.node if node.op_type != "Constant" for name in node.output]
    names = [*(value.name for value in model.graph.input), *made]
    return tuple(name for name in names if name in floats and 0 not in (sizes.get(name) or ()))


def ranges_of(recipe: Recipe, found: Statistics) -> dict[str, tuple[float, float]]:
    """The least and the largest value of each tensor that count, by the method of the recipe's `ptq` stage."""
    settings = next(stage for stage in recipe.stages if isinstance(stage, Ptq)).model_copy(update={"format": "int8"})
    ranges = {name: range_from(each, settings) for name, each in found.tensors.items()}
    return {name: (each.low[0], each.high[0]) for name, each in ranges.items()}
