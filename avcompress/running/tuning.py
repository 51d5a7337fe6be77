"""The `qat` stages of a recipe: steps of a run that, killed, go on from their last checkpoint."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from avcompress import ranks
from avcompress.checkpoint import load_artifact, save_artifact
from avcompress.files import write_atomically
from avcompress.quant.stages.adaround import require_torch
from avcompress.recipe import Detection
from avcompress.recipe_distill import Loss, Teaching
from avcompress.recipe_qat import Qat
from avcompress.running.bench import Bench
from avcompress.running.float_model import Export
from avcompress.running.teaching import default_losses, images_of, label_loss, teacher_of
from avcompress.running.training import SKIPPED, around, length, under_way
from avcompress.running.zeros import check_kept
from avcompress.spec import Artifact, Track

if TYPE_CHECKING:
    import onnx
    from torch import Tensor, nn

    from avcompress.quant.stages.qat import Learner, Lesson


def qat_step(bench: Bench, index: int, stage: Qat, before: Path, key: str, made: list[str]) -> Path:
    """Take the step of one stage on the artifact that lies in `before`; returns the folder of the new one.

    Args:
        bench: of the run.
        index: of the stage.
        stage: its settings.
        before: the folder of the step before.
        key: of the step.
        made: hashes of the files that its teacher comes from.
    """
    require_torch("qat")
    from avcompress.quant.stages.qat import qat

    name = f"{index}-qat"

    def compute(folder: Path, track: Track) -> None:
        artifact, samples = load_artifact(before), images_of(bench)
        lesson = lesson_of(bench, f"stages[{index}]", stage)
        with around(bench, name, stage, made, export_of(artifact), track) as surroundings:
            done = qat(artifact, stage, samples, bench.recipe.preprocess, surroundings, lesson)
        check_kept(artifact, done)
        save_artifact(done, folder)
        write_atomically(folder / SKIPPED, json.dumps(samples.skipped))

    title = f"train quantized ({stage.method}, {length(stage)})"
    folder = bench.step(name, title, key, compute, together=True)
    if ranks.leads():
        shutil.rmtree(under_way(bench, name), ignore_errors=True)
    return folder


def export_of(artifact: Artifact) -> Export:
    """What makes an ONNX network of a learner of this artifact's."""
    from avcompress.quant.learning.qat_module import trained_artifact
    from avcompress.quant.stages.qat import network_of

    def export(module: nn.Module) -> onnx.ModelProto:
        network: onnx.ModelProto = trained_artifact(artifact, network_of(module)).model
        return network

    return export


def lesson_of(bench: Bench, where: str, stage: Qat) -> Lesson:
    """What a stage's network learns: the recipe's losses, or those of its task that need no labels.

    Raises RecipeError for losses of labels where the task has none of its own.
    """
    from avcompress.distill import Subject, distillation
    from avcompress.quant.stages.qat import Lesson

    task = bench.recipe.task
    detection = task if isinstance(task, Detection) else None
    losses: tuple[Loss, ...] = stage.losses or default_losses(task)
    teaching = Teaching(teacher=stage.teacher, losses=losses)
    labels = label_loss(bench, where, losses, stage)
    subject = Subject(detection, None if labels is None else labels.of)

    def make(student: nn.Module, float_self: nn.Module, example: Tensor) -> Learner:
        teacher = teacher_of(bench, teaching, float_self)
        return distillation(student, teacher, teaching, example, subject)

    return Lesson(make, labels=labels is not None and labels.labels)
