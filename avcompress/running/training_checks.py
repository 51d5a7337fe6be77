"""What can be wrong with the stages that train, found before the work."""

from __future__ import annotations

import importlib.util

from avcompress.inputs import check_labelled
from avcompress.recipe import Detection, Ptq, Recipe
from avcompress.recipe_distill import Distill, Itself, Mutual, needs_labels
from avcompress.recipe_network import OnnxModel
from avcompress.recipe_qat import Qat
from avcompress.recipe_training import Train, Training
from avcompress.spec import MissingError, RecipeError


def check_training(recipe: Recipe) -> None:
    """Raise RecipeError for settings that do not fit the recipe, MissingError for a log that is not installed."""
    for index, stage in enumerate(recipe.stages):
        where = f"stages[{index}]"
        if not isinstance(stage, Training):
            continue
        if stage.log is not None and importlib.util.find_spec(stage.log) is None:
            raise MissingError(
                f'{where}.log: expected {stage.log}, got none installed; pip install "avcompress[{stage.log}]"'
            )
        match stage:
            case Train():
                _check_train(recipe, where, stage)
            case Distill():
                _check_distill(where, stage)
            case Qat():
                _check_qat(recipe, where, stage)
    _check_labels(recipe)


def _check_labels(recipe: Recipe) -> None:
    """A user's own loss may do without labels, and so do most of distillation's."""
    part = "calibration" if recipe.data.train is None else "train"
    for index, stage in enumerate(recipe.stages):
        if isinstance(stage, Training) and _learns_labels(stage):
            remedy = f"give labelled images, or stages[{index}] ({stage.kind}) losses that need no labels"
            check_labelled(f"data.{part}", recipe.data.train or recipe.data.calibration, recipe.task, remedy)


def _learns_labels(stage: Training) -> bool:
    match stage:
        case Train():
            return ":" not in (stage.loss or "")
        case Distill() | Qat():
            return needs_labels(stage.losses)
        case _:
            return False


def _check_train(recipe: Recipe, where: str, stage: Train) -> None:
    if recipe.data.train is None:
        raise RecipeError(f"{where}: expected data.train to train on, got nothing; add it")
    _check_loss(recipe, where, stage)


def _check_distill(where: str, stage: Distill) -> None:
    """The network itself may teach it, beside other losses: it then keeps what it knows."""
    if stage.teacher != "self":
        return
    mutual = any(isinstance(loss, Mutual) for loss in stage.losses)
    if mutual or not (needs_labels(stage.losses) or any(isinstance(loss, Itself) for loss in stage.losses)):
        raise RecipeError(
            f"{where}.teacher: expected another network, got self, which tells the network nothing that it does not "
            "say itself; name a file or a factory, or add a loss of kind labels or self"
        )


def _check_qat(recipe: Recipe, where: str, stage: Qat) -> None:
    ptq = next(each for each in recipe.stages if isinstance(each, Ptq))
    if stage.method == "lsq_plus" and ptq.activations != "asymmetric":
        raise RecipeError(
            f"{where}.method: expected activations: asymmetric in `ptq` for lsq_plus, which learns zero points, got "
            f"{ptq.activations}; set it, or method: lsq"
        )


_LOSSES = {"yolox": frozenset[str](), "ltrb": frozenset[str](), "cross_entropy": frozenset({"class_weights"})}


def _check_loss(recipe: Recipe, where: str, stage: Train) -> None:
    if stage.loss is None and isinstance(recipe.model, OnnxModel):
        raise RecipeError(
            f"{where}.loss: expected yolox, ltrb, cross_entropy or module:function for an ONNX file, which brings "
            "none, got nothing; name one"
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
