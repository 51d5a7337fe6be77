"""What a finished network is held against: the float one, another one, a stored baseline, results made elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from avcompress.float_network import float_network
from avcompress.judging.baselines import read_reference
from avcompress.judging.contenders import as_made, find_contenders, float_subject, read_any
from avcompress.judging.given import Given, identify
from avcompress.judging.measuring import Measured, find_all
from avcompress.recipe import CocoSource, Recipe
from avcompress.spec import RecipeError
from avcompress.steps import Steps
from avcompress.trial import Trial
from calibration.coco import read_ids
from engines.bundle import Trust
from validation.coco_results import read_coco_results
from validation.predictions import check_predictions
from validation.truth import Truth

REFERENCE = "reference"


@dataclass(frozen=True)
class Origin:
    """Where recipes and data are.

    Attributes:
        recipe: names the data and the float network.
        folder: of the recipe.
        root: where its paths start.
        trust: which bundles are taken.
    """

    recipe: Recipe
    folder: Path
    root: Path
    trust: Trust


@dataclass(frozen=True)
class Against:
    """What was named to hold a network against; nothing named means the float network.

    Attributes:
        reference: the float ONNX, a run, a bundle, or a file of COCO results.
        baseline: a stored one.
    """

    reference: Path | None = None
    baseline: Path | None = None

    @property
    def words(self) -> str:
        """What was named, for people; empty where nothing was."""
        if self.baseline is not None:
            return f"the baseline {self.baseline}"
        return str(self.reference) if self.reference is not None else ""

    @property
    def is_stored(self) -> bool:
        """Whether predictions are read, not made."""
        return self.baseline is not None or is_results(self.reference)


def is_results(path: Path | None) -> bool:
    """Whether a path names COCO results, not a network."""
    return path is not None and path.suffix.lower() == ".json"


def find_reference(
    against: Against, given: Given | None, origin: Origin, steps: Steps, trial: Trial, truth: Truth
) -> Measured:
    """The predictions that a network's are held against, read or made."""
    if against.baseline is not None:
        return read_reference(against.baseline, trial, truth, origin.recipe.data.validation)
    path = against.reference
    if path is not None and is_results(path):
        return read_results(path, origin, trial, truth)
    other = identify(path, origin.trust) if path is not None else None
    if other is None or other.kind == "network":
        model = float_model(path, given, origin)
        return find_all(steps, trial, float_subject(model, REFERENCE), truth)
    backends = [name for name in (given.manifests if given else ()) if name in other.manifests]
    found, _ = find_contenders(other, backends[0] if backends else None, origin.trust, origin.recipe)
    return find_all(steps, as_made(trial, found[0].manifest), replace(found[0].subject, name=REFERENCE), truth)


def float_model(path: Path | None, given: Given | None, origin: Origin) -> onnx.ModelProto:
    """The float network that was named, or that of the run, or the one that the recipe names before any training."""
    path = path or (given.reference if given else None)
    if path is not None:
        return read_any(path, origin.recipe)
    if origin.recipe.reference_stages:
        raise RecipeError(
            "--reference: expected what the network is held against, got none, and the recipe trains its float "
            "network; give --reference or --baseline"
        )
    return float_network(origin.recipe, origin.folder, origin.root)


def read_results(path: Path, origin: Origin, trial: Trial, truth: Truth) -> Measured:
    """Detections that were made elsewhere, with the ids of the labels; raises RecipeError, DataError."""
    source = origin.recipe.data.validation
    if not isinstance(source, CocoSource):
        raise RecipeError(
            f"{path}: expected a recipe with COCO labels, whose ids the results use, got {source.format!r}; give one"
        )
    found = read_coco_results(path, read_ids(source, origin.root, trial.classes), truth.names)
    check_predictions(found, truth)
    return Measured(found)
