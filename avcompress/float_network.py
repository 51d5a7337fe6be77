"""The float network that a recipe names, as ONNX and before any stage."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from avcompress.recipe import Recipe
from avcompress.recipe_network import OnnxModel, SavedModel
from avcompress.spec import MissingError, ModelError, RecipeError
from engines.onnx_graph import check, fold_batch_norms, infer_shapes, keep_output, with_outputs
from engines.onnx_load import load_onnx, refuse_unusable

if TYPE_CHECKING:
    import onnx


def float_network(recipe: Recipe, recipe_folder: Path, data_root: Path) -> onnx.ModelProto:
    """Read or build and export the network, cut down to the output that the recipe names.

    Args:
        recipe: says which network, and its input's size.
        recipe_folder: what `model.import_from` starts from.
        data_root: what the files start from.

    Raises RecipeError or ModelError.
    """
    settings, size = recipe.model, recipe.preprocess.size
    match settings:
        case OnnxModel():
            model = load_onnx((data_root / settings.onnx).resolve(), size)
        case SavedModel():
            model = deployed(saved_network((data_root / settings.structure).resolve()))
        case _:
            from avcompress.export import to_onnx
            from avcompress.models.loading import load_torch

            model = to_onnx(load_torch(settings, data_root, recipe_folder), size)
    return with_output(model, settings.output)


def saved_network(folder: Path) -> onnx.ModelProto:
    """A network that was made smaller, with its normalization.

    Raises ModelError for files that hold none, or weights that are not finite; MissingError without safetensors.
    """
    try:
        from avcompress.structure import load_structure
    except ModuleNotFoundError:
        message = f'{folder}: expected safetensors to read it, got none installed; pip install "avcompress[train]"'
        raise MissingError(message) from None
    network = load_structure(folder)
    try:
        refuse_unusable(network)
    except ModelError as error:
        raise ModelError(f"{folder}: {error}") from error
    return network


def deployed(network: onnx.ModelProto) -> onnx.ModelProto:
    """A network that is trained here as it is exported, as torch exports a module: with normalization folded in."""
    return check(infer_shapes(fold_batch_norms(network)))


def with_output(model: onnx.ModelProto, name: str | None) -> onnx.ModelProto:
    """The network cut down to one tensor, if one is named: an output, or one inside, as before its post-processing.

    Raises RecipeError where there is none of that name.
    """
    names = [value.name for value in model.graph.output]
    if name is None or names == [name]:
        return model
    if name not in names and name not in {output for node in model.graph.node for output in node.output}:
        raise RecipeError(
            f"model.output: expected one of the network's outputs, {', '.join(names)}, or a tensor inside, got "
            f"{name!r}; mend it"
        )
    return keep_output(with_outputs(model, [name]), name)
