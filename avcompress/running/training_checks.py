"""What can be wrong with the stages that train, found before the work."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

from avcompress.inputs import check_labelled
from avcompress.recipe import Detection, Ptq, Recipe, Shrinking, Stage
from avcompress.recipe_distill import Distill, Itself, Mutual, needs_labels
from avcompress.recipe_network import TorchModel
from avcompress.recipe_prune import Prune, Sparsify
from avcompress.recipe_qat import Qat
from avcompress.recipe_training import LabelLoss, Train, Training
from avcompress.spec import MissingError, RecipeError


def check_training(recipe: Recipe) -> None:
    """Raise RecipeError for settings that do not fit the recipe, MissingError for a log that is not installed."""
    is_smaller = False
    for where, stage in all_stages(recipe):
        is_smaller |= isinstance(stage, Shrinking)
        if isinstance(stage, Training):
            require_log(where, stage)
        match stage:
            case Train():
                _check_train(recipe, where, stage)
            case Distill():
                _check_distill(recipe, where, stage, is_smaller)
            case Qat():
                check_qat(recipe, where, stage)
            case Prune() | Sparsify():
                _check_loss(recipe, where, stage)
    _check_labels(recipe)


def all_stages(recipe: Recipe) -> Iterator[tuple[str, Stage]]:
    """The stages with their places, those within others too: stages[1].recover."""
    for index, stage in enumerate(recipe.stages):
        yield f"stages[{index}]", stage
        if isinstance(stage, Prune | Sparsify) and stage.recover is not None:
            yield f"stages[{index}].recover", stage.recover


def require_log(where: str, stage: Training) -> None:
    """Raise MissingError for a log that is not installed."""
    if stage.log is not None and importlib.util.find_spec(stage.log) is None:
        raise MissingError(
            f'{where}.log: expected {stage.log}, got none installed; pip install "avcompress[{stage.log}]"'
        )


def _check_labels(recipe: Recipe) -> None:
    """A user's own loss may do without labels, and so do most of distillation's."""
    part = "calibration" if recipe.data.train is None else "train"
    for where, stage in all_stages(recipe):
        if _learns_labels(stage):
            remedy = f"give labelled images, or {where} ({stage.kind}) losses that need no labels"
            check_labelled(f"data.{part}", recipe.data.train or recipe.data.calibration, recipe.task, remedy)


def _learns_labels(stage: Stage) -> bool:
    match stage:
        case Train():
            return ":" not in (stage.loss or "")
        case Distill() | Qat():
            return needs_labels(stage.losses) and ":" not in (stage.loss or "")
        case Prune(importance="gradient" | "taylor" | "fisher") | Sparsify(importance="gradient"):
            return stage.loss != "response" and ":" not in stage.loss
        case _:
            return False


def _check_train(recipe: Recipe, where: str, stage: Train) -> None:
    if recipe.data.train is None:
        raise RecipeError(f"{where}: expected data.train to train on, got nothing; add it")
    if stage.loss is None and not isinstance(recipe.model, TorchModel):
        raise RecipeError(
            f"{where}.loss: expected yolox, ltrb, cross_entropy or module:function for an ONNX file, which brings "
            "none, got nothing; name one"
        )
    _check_loss(recipe, where, stage)


def _check_distill(recipe: Recipe, where: str, stage: Distill, is_smaller: bool) -> None:
    """The network itself may teach it beside other losses, to keep what it knows; a smaller one has its dense self."""
    _check_loss(recipe, where, stage)
    _check_used(where, stage)
    if stage.teacher != "self" or is_smaller:
        return
    mutual = any(isinstance(loss, Mutual) for loss in stage.losses)
    if mutual or not (needs_labels(stage.losses) or any(isinstance(loss, Itself) for loss in stage.losses)):
        raise RecipeError(
            f"{where}.teacher: expected another network, got self, which tells the network nothing that it does not "
            "say itself; name a file or a factory, or add a loss of kind labels or self"
        )


def _check_used(where: str, stage: Distill | Qat) -> None:
    if stage.loss is not None and not needs_labels(stage.losses):
        raise RecipeError(
            f"{where}.loss: expected a loss of kind labels, or alpha above 0, that {stage.loss} is for, got none in "
            "`losses`; add one"
        )


def check_qat(recipe: Recipe, where: str, stage: Qat) -> None:
    """Raise RecipeError for a loss that nothing uses, or a method that does not fit the recipe's `ptq`."""
    _check_loss(recipe, where, stage)
    _check_used(where, stage)
    ptq = next(each for each in recipe.stages if isinstance(each, Ptq))
    if stage.method == "lsq_plus" and ptq.activations != "asymmetric":
        raise RecipeError(
            f"{where}.method: expected activations: asymmetric in `ptq` for lsq_plus, which learns zero points, got "
            f"{ptq.activations}; set it, or method: lsq"
        )


_LOSSES = {"yolox": frozenset[str](), "ltrb": frozenset[str](), "cross_entropy": frozenset({"class_weights"})}


def _check_loss(recipe: Recipe, where: str, stage: LabelLoss) -> None:
    if stage.loss == "own" and not isinstance(recipe.model, TorchModel):
        raise RecipeError(
            f"{where}.loss: expected yolox, ltrb, cross_entropy or module:function for an ONNX file, which brings "
            "none, got own; name one"
        )
    task = recipe.task
    decode = task.decode if isinstance(task, Detection) else ""
    usual = isinstance(task, Detection) and task.strides == (8, 16, 32)
    fits = {"yolox": decode == "yolox", "ltrb": decode == "ltrb" and usual, "cross_entropy": not decode}
    if not fits.get(stage.loss or "", True):
        got = f"{task.kind}, decode: {decode}, strides {task.strides}" if isinstance(task, Detection) else task.kind
        raise RecipeError(f"{where}.loss: expected one that fits the task, {got}, got {stage.loss}; name another")
    unknown = sorted(stage.loss_args.keys() - _LOSSES.get(stage.loss or "yolox", stage.loss_args.keys()))
    if unknown:
        raise RecipeError(f"{where}.loss_args: expected arguments of the loss, got {unknown[0]!r}; remove it")
