"""What a network can do without: the importance of its channels, measured on images where the recipe asks for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import numpy as np
import onnx

from avcompress.files import sha256_file
from avcompress.recipe_prune import Choosing, Prune, ScoreFile, ScoreFunction, Sparsify
from avcompress.recipe_rewrite import Rewrite
from avcompress.running.bench import Bench
from avcompress.running.float_model import FloatModel
from avcompress.running.task_loss import code_of, loss_code, task_loss
from avcompress.running.teaching import images_of
from avcompress.spec import Artifact, ModelError, RecipeError, Track, untracked
from calibration.part import take_part
from calibration.source import Source
from validation.report import Factorization, Pruning, Rewriting

if TYPE_CHECKING:
    from torch import Tensor

    from avcompress.distill.movement import Moves
    from avcompress.prune import Coupling
    from avcompress.prune.importance import Lesson, Scores
    from avcompress.train import Dataset, TaskLoss

BATCH = 8


class Made(NamedTuple):
    """What a step that makes a network smaller gives: the artifact, and what the report tells of it."""

    artifact: Artifact
    facts: Pruning | Factorization | Rewriting | None = None


S = TypeVar("S", bound=Choosing)


@dataclass(frozen=True)
class Chooser(Generic[S]):
    """What measures importance for a stage.

    Attributes:
        where: the stage's place in the recipe.
        model: whose network is made smaller.
    """

    bench: Bench
    where: str
    stage: S
    model: FloatModel
    track: Track = untracked

    def watched(self, track: Track) -> Chooser[S]:
        """The same, with someone to watch the images go by."""
        return replace(self, track=track)

    def lesson(self) -> Lesson:
        """What the network is asked: images, and the loss that the stage names."""
        from avcompress.prune.importance import Lesson

        loss = self._loss()
        of = None if loss is None else loss.of
        return Lesson(self._batches(loss is not None and loss.labels), of, self._moves())

    def images(self) -> Iterator[Tensor]:
        """What importance is measured on, whatever their labels: batches (N, C, H, W)."""
        return (images for images, _ in self._batches(labels=False))

    def _moves(self) -> Moves:
        """What a movement of the answers counts."""
        from avcompress.distill.movement import moves_of

        return moves_of(self.bench.recipe.task, self.bench.recipe.preprocess.size)

    def _loss(self) -> TaskLoss | None:
        if self.stage.loss == "response":
            return None
        if self.stage.loss != "own":
            return task_loss(self.bench, self.where, self.stage)
        own = self.model.own_loss
        if own is None:
            raise ModelError(
                f"{self.where}.loss: expected a torch module with the methods targets and loss for `own`, got none; "
                "name another loss"
            )
        return own

    def _batches(self, labels: bool) -> Batches:
        from avcompress.train import load

        images = few(images_of(self.bench), self.stage.images)
        return Batches(load(images, self.bench.recipe.preprocess, self.track, labels=labels))


@dataclass(frozen=True)
class Batches:
    """Images as they are, with their samples, a few at a time; gone through as often as wanted."""

    dataset: Dataset

    def __iter__(self) -> Iterator[tuple[Tensor, list[Any]]]:
        from avcompress.recipe_training import Augment

        count = len(self.dataset.pictures)
        for start in range(0, count, BATCH):
            indices = range(start, min(start + BATCH, count))
            yield self.dataset.batch(indices, np.random.default_rng(0), Augment(mirror=0, brightness=0))


def few(source: Source, count: int) -> Source:
    """At most so many images of a source, evenly spread."""
    return take_part(source, 1, -(-len(source) // count)) if len(source) > count else source


def channel_scores(chooser: Chooser[Prune], network: onnx.ModelProto, coupling: Coupling) -> Scores:
    """How important the channels of a network are, by what the stage names; groups it says nothing of are left out.

    Raises ModelError for importance that is not finite or of another network, DataError for a file that holds none.
    """
    from avcompress.onnx_import import import_onnx
    from avcompress.prune import importance as by

    match chooser.stage.importance:
        case "l1" | "l2" | "bn_scale" | "fpgm" as name:
            return {"l1": by.l1, "l2": by.l2, "bn_scale": by.bn_scale, "fpgm": by.fpgm}[name](network, coupling)
        case "gradient" | "taylor" | "fisher" as name:
            measure = {"gradient": by.gradient, "taylor": by.taylor, "fisher": by.fisher}[name]
            return measure(import_onnx(network), coupling, chooser.lesson())
        case "activation":
            return by.activation(import_onnx(network), coupling, chooser.lesson().batches)
        case "random":
            return by.chance(coupling, chooser.stage.seed)
        case ScoreFile():
            return by.given(network, coupling, by.read_scores(chooser.bench.inputs[f"{chooser.where}.importance.file"]))
        case ScoreFunction() as own:
            return by.given(network, coupling, _own_scores(chooser, own)(network, coupling))


def made_by(chooser: Chooser[Prune] | Chooser[Sparsify]) -> list[str]:
    """Hashes of the user's files that importance comes from."""
    code = loss_code(chooser.bench, chooser.where, chooser.stage)
    match chooser.stage.importance:
        case ScoreFile():
            return [*code, sha256_file(chooser.bench.inputs[f"{chooser.where}.importance.file"])]
        case ScoreFunction() as own:
            folder = chooser.bench.inputs.get(f"{chooser.where}.importance.import_from")
            return [*code, *code_of([_own_scores(chooser, own)], folder)]
        case _:
            return code


def _own_scores(chooser: Chooser[Any], settings: ScoreFunction) -> Callable[[onnx.ModelProto, Coupling], Any]:
    from avcompress.models.loading import load_function

    label = f"{chooser.where}.importance"
    folder = chooser.bench.inputs.get(f"{label}.import_from")
    return load_function(settings.function, folder, chooser.bench.job.recipe_path.parent, f"{label}.function")


def concerned(coupling: Coupling, stage: Choosing, where: str) -> Coupling:
    """The coupling with those groups alone that the stage's patterns let change.

    Raises RecipeError for a pattern that no layer has, or when nothing is left.
    """
    layers = [*(name for group in coupling.groups for name in group.producers), *(f.layer for f in coupling.fixed)]
    refuse_unmatched(layers, stage, where)
    groups = tuple(group for group in coupling.groups if may_change(group.producers, stage))
    if not groups:
        reasons = "; ".join(f"{fixed.layer}: {fixed.reason}" for fixed in coupling.fixed[:3])
        raise RecipeError(
            f"{where}: expected layers whose channels can be removed, got none ({reasons or 'all are excluded'}); mend "
            "layers and exclude, or leave the stage out"
        )
    return replace(coupling, groups=groups)


def refuse_unmatched(layers: Sequence[str], stage: Choosing | Rewrite, where: str) -> None:
    """Raise RecipeError for a pattern of a stage that none of the layers has."""
    for key in ("layers", "exclude"):
        for pattern in getattr(stage, key):
            if not _fits(layers, (pattern,)):
                close = get_close_matches(pattern.strip("*"), layers, 3, 0.0)
                raise RecipeError(
                    f"{where}.{key}: expected a layer's name, or a pattern of some, got {pattern!r}, which fits none; "
                    f"the nearest are {', '.join(close)}"
                )


def may_change(layers: Sequence[str], stage: Choosing | Rewrite) -> bool:
    """Whether the stage's patterns let layers change that go together: one that is left as it is keeps all of them."""
    return _fits(layers, stage.layers) and not _fits(layers, stage.exclude)


def _fits(layers: Sequence[str], patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for name in layers for pattern in patterns)
