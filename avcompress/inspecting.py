"""From a file that `avcompress inspect` is given to what is quantized in it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from avcompress.float_network import float_network
from avcompress.quant.analysis.inspection import Inspection, inspect_float, inspect_quantized, is_quantized
from avcompress.recipe import Dynamic, KeepFloat, Ptq, Recipe, WeightOnly
from avcompress.recipe_load import load_recipe
from avcompress.spec import ModelError, RecipeError
from engines.lint.read import read_model
from engines.onnx_load import load_onnx

if TYPE_CHECKING:
    import onnx

RuleSet = Literal["tensorrt", "cpu"]


def inspect_file(path: Path, data_root: Path, rules: RuleSet | None, size: tuple[int, int] | None) -> Inspection:
    """Plan or find what is quantized in an ONNX file, or in the network of a recipe as its stages ask for it.

    Args:
        path: an .onnx file or a recipe.
        data_root: where the paths in a recipe start.
        rules: None takes those of the recipe, or tensorrt.
        size: height and width of a dynamic input.

    Raises RecipeError or ModelError.
    """
    match path.suffix.lower():
        case ".onnx":
            model = read_model(path)
            if is_quantized(model):
                return _found(model, path)
            return inspect_float(load_onnx(path, size), KeepFloat(), rules or "tensorrt")
        case ".yaml" | ".yml":
            recipe = load_recipe(path)
            keep, own, number_format = _placement(recipe)
            model = float_network(recipe, path.resolve().parent, data_root)
            return inspect_float(model, keep, rules or own, number_format)
        case _:
            raise RecipeError(f"{path}: expected an .onnx file or a .yaml recipe, got {path.suffix or 'no ending'!r}")


def _found(model: onnx.ModelProto, path: Path) -> Inspection:
    try:
        return inspect_quantized(model)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error


def _placement(recipe: Recipe) -> tuple[KeepFloat, RuleSet, Literal["int8", "fp8"]]:
    """What the quantizing stage of a recipe says about its layers."""
    for stage in recipe.stages:
        match stage:
            case Ptq():
                return stage.keep_float, stage.rules, stage.format
            case Dynamic() | WeightOnly():
                return stage.keep_float, "cpu", "int8"
    return KeepFloat(), "tensorrt", "int8"
