"""Who teaches a network in a stage, and what of: what `distill` and `qat` stages have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from avcompress.files import sha256_file
from avcompress.recipe import Detection, Task
from avcompress.recipe_distill import Distill, Loss, Response, Soft, Teacher, Teaching, needs_labels
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
    """Hashes of the files that a stage's teacher comes from, `where` the stage's key; none of the network itself."""
    key = f"{where}.teacher"
    paths = [path for label, path in bench.inputs.items() if label.startswith(key)]
    saved = [file for path in paths if isinstance(teacher, SavedModel) for file in sorted(path.iterdir())]
    found = [sha256_file(path) for path in (*paths, *saved) if path.is_file()]
    if not isinstance(teacher, TorchModel):
        return found
    from avcompress.models.loading import load_torch

    module = load_torch(teacher, bench.job.data_root, bench.job.recipe_path.parent)
    return [*found, *module_code(module, bench.inputs.get(f"{key}.import_from"))]


def default_losses(task: Task) -> tuple[Loss, ...]:
    """Those between two networks of a task that need no labels."""
    return (Response(kind="response"),) if isinstance(task, Detection) else (Soft(kind="soft", temperature=1.0),)


def learns_labels(task: Task) -> bool:
    """Whether there is a loss of labels for a task."""
    return _label_loss_name(task) in _WITH_LABELS


def _label_loss_name(task: Task) -> str:
    return task.decode if isinstance(task, Detection) else "cross_entropy"


def label_loss(bench: Bench, where: str, losses: Iterable[Loss], stage: LabelLoss) -> TaskLoss | None:
    """The loss of the stage at `where`, or else the task's, where `losses` need one.

    Raises RecipeError where there is none.
    """
    if not needs_labels(losses):
        return None
    if stage.loss is not None:
        return task_loss(bench, where, stage)
    name = _label_loss_name(bench.recipe.task)
    if name not in _WITH_LABELS:
        raise RecipeError(
            f"{where}.losses: expected losses without labels for decode: {name}, got `labels` or alpha above "
            "0; leave them out, or name a `loss`"
        )
    return task_loss(bench, where, stage.model_copy(update={"loss": name}))


# --- the stage `distill`


def distilling(bench: Bench, where: str, stage: Distill, model: FloatModel) -> Callable[[Artifact, Around], Artifact]:
    """What a `distill` stage does to a float network: its own loss of labels comes first.

    Raises RecipeError, ModelError for a teacher or a loss that is not there.
    """
    from avcompress.distill import Guidance, distill

    module: nn.Module = model.artifact.model
    task = bench.recipe.task
    own = stage.loss is None and all(callable(getattr(module, name, None)) for name in ("targets", "loss"))
    guidance = Guidance(
        teacher=teacher_of(bench, stage, model.dense_self()),
        task=task if isinstance(task, Detection) else None,
        loss=None if own else model.loss or label_loss(bench, where, stage.losses, stage),
        output=bench.recipe.model.output,
    )

    def learn(artifact: Artifact, around: Around) -> Artifact:
        return distill(artifact, stage, images_of(bench), bench.recipe.preprocess, guidance, around)

    return learn
