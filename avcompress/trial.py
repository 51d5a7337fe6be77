"""What networks are tried on: one validation set, and how all of them are run, timed and judged on it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from avcompress.contract import Contract, Measure, Validation
from avcompress.recipe import Detection, Preprocess, Recipe, Task
from calibration.source import Source
from engines.session import Session
from validation.contract_check import check_contract, check_slices
from validation.detection import box_metric_names, tells_kitti
from validation.segmentation import mask_metric_names
from validation.slices import make_slices
from validation.truth import Truth


@dataclass(frozen=True)
class Trial:
    """What is the same for all networks that are compared.

    Attributes:
        name: the recipe's.
        source: the validation images and labels.
    """

    name: str
    task: Task
    preprocess: Preprocess
    classes: tuple[str, ...]
    source: Source
    contract: Contract
    measure: Measure
    validation: Validation

    @property
    def threshold(self) -> float | None:
        """The score from which a detection is believed; None for masks, which have no scores."""
        return self.task.deployed_threshold if isinstance(self.task, Detection) else None

    @property
    def running(self) -> list[Any]:
        """What decides a network's predictions beside the network and the images: what they are judged by does not."""
        task = self.task.model_dump(exclude={"deployed_threshold"})
        return [task, self.preprocess.model_dump(), self.classes]


@dataclass(frozen=True)
class Subject:
    """A network that can be run.

    Attributes:
        name: as checks and reports call it: openvino.
        key: stands for its files and settings: equal keys, equal predictions.
        open: loads it; it is closed when the block ends.
    """

    name: str
    key: str
    open: Callable[[], AbstractContextManager[Session]]


def trial_of(recipe: Recipe, classes: tuple[str, ...], source: Source) -> Trial:
    """The trial that a recipe asks for, on its validation images."""
    return Trial(
        name=recipe.name,
        task=recipe.task,
        preprocess=recipe.preprocess,
        classes=classes,
        source=source,
        contract=recipe.contract,
        measure=recipe.measure,
        validation=recipe.validation,
    )


def metric_names(task: Task, classes: tuple[str, ...], kitti: bool = True) -> tuple[str, ...]:
    """Every metric that is measured, by the name that contracts use; KITTI's where the labels tell what they need."""
    return box_metric_names(classes, kitti) if isinstance(task, Detection) else mask_metric_names(classes)


def check_trial(trial: Trial, truth: Truth) -> None:
    """Hold the contract against the labels, before anything runs; raises RecipeError for what they do not tell."""
    kitti = truth.objects is not None and tells_kitti(truth.objects)
    check_contract(trial.contract, metric_names(trial.task, trial.classes, kitti), trial.measure)
    check_slices(trial.contract, [part.name for part in make_slices(truth, trial.validation)], trial.validation)
