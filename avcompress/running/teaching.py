"""Who teaches a network in a stage, and what of: what `distill` and `qat` stages have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from avcompress.files import sha256_file
from avcompress.recipe import Detection
from avcompress.recipe_distill import Distill, Loss, Teacher, Teaching, needs_labels
from avcompress.recipe_network import SavedModel, TorchModel
from avcompress.recipe_training import LabelLoss
from avcompress.running.bench import Bench
from avcompress.running.float_model import FloatModel
from avcompress.running.task_loss import module_code, task_loss
from avcompress.spec import Artifact, RecipeError
from calibration.source import Source

if TYPE_CHECKING:
    from torch import nn

    from avcompress.train import Around, TaskLoss

_WITH_LABELS = ("yolox", "ltrb", "cross_entropy")


def images_of(bench: Bench) -> Source:
    """What a network learns from that may do without labels: data.train, or else the calibration images."""
    return bench.train or bench.calibration


def teacher_of(bench: Bench, teaching: Teaching, own: nn.Module) -> nn.Module:
    """The network that teaches; `own` is what `self` stands for."""
    from avcompress.distill import load_teacher

    job = bench.job
    return load_teacher(teaching, own, bench.recipe.preprocess.size, job.data_root, job.recipe_path.parent)


def teacher_code(bench: Bench, where: str, teacher: Teacher) -> list[str]:
    """Hashes of the files that the teacher of the stage at `where` comes from; none where it is the network itself."""
    where = f"{where}.teacher"
    paths = [path for label, path in bench.inputs.items() if label.startswith(where)]
    saved = [file for path in paths if isinstance(teacher, SavedModel) for file in sorted(path.iterdir())]
    found = [sha256_file(path) for path in (*paths, *saved) if path.is_file()]
    if not isinstance(teacher, TorchModel):
        return found
    from avcompress.models.loading import load_torch

    module = load_torch(teacher, bench.job.data_root, bench.job.recipe_path.parent)
    return [*found, *module_code(module, bench.inputs.get(f"{where}.import_from"))]


def label_loss(bench: Bench, where: str, losses: Iterable[Loss]) -> TaskLoss | None:
    """The task's loss of labels, where a stage's losses need it; raises RecipeError where the task has none."""
    if not needs_labels(losses):
        return None
    task = bench.recipe.task
    name = task.decode if isinstance(task, Detection) else "cross_entropy"
    if name not in _WITH_LABELS:
        raise RecipeError(
            f"{where}.losses: expected losses without labels for decode: {name}, got `labels` or alpha above "
            "0; leave them out"
        )
    return task_loss(bench, where, LabelLoss(loss=name))


# --- the stage `distill`


def distilling(bench: Bench, where: str, stage: Distill, model: FloatModel) -> Callable[[Artifact, Around], Artifact]:
    """What a `distill` stage does to a float network: its own loss of labels comes first.

    Raises RecipeError, ModelError for a teacher or a loss that is not there.
    """
    from avcompress.distill import Guidance, distill

    module: nn.Module = model.artifact.model
    task = bench.recipe.task
    own = all(callable(getattr(module, name, None)) for name in ("targets", "loss"))
    guidance = Guidance(
        teacher=teacher_of(bench, stage, model.dense_self()),
        task=task if isinstance(task, Detection) else None,
        loss=None if own else model.loss or label_loss(bench, where, stage.losses),
    )

    def learn(artifact: Artifact, around: Around) -> Artifact:
        return distill(artifact, stage, images_of(bench), bench.recipe.preprocess, guidance, around)

    return learn
