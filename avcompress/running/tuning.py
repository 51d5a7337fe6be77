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
from avcompress.recipe_distill import Loss, Response, Soft, Teaching
from avcompress.recipe_qat import Qat
from avcompress.running.bench import Bench
from avcompress.running.teaching import images_of, label_loss, teacher_of
from avcompress.running.training import SKIPPED, around, length, under_way
from avcompress.spec import Track

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
    from avcompress.quant.learning.qat_module import trained_artifact
    from avcompress.quant.stages.qat import network_of, qat

    name = f"{index}-qat"

    def compute(folder: Path, track: Track) -> None:
        artifact, samples = load_artifact(before), images_of(bench)

        def export(module: nn.Module) -> onnx.ModelProto:
            network: onnx.ModelProto = trained_artifact(artifact, network_of(module)).model
            return network

        with around(bench, name, stage, made, export, track) as surroundings:
            done = qat(artifact, stage, samples, bench.recipe.preprocess, surroundings, lesson_of(bench, index, stage))
        save_artifact(done, folder)
        write_atomically(folder / SKIPPED, json.dumps(samples.skipped))

    title = f"train quantized ({stage.method}, {length(stage)})"
    folder = bench.step(name, title, key, compute, together=True)
    if ranks.leads():
        shutil.rmtree(under_way(bench, name), ignore_errors=True)
    return folder


def lesson_of(bench: Bench, index: int, stage: Qat) -> Lesson:
    """What a stage's network learns: the recipe's losses, or those of its task that need no labels.

    Raises RecipeError for losses of labels where the task has none of its own.
    """
    from avcompress.distill import distillation
    from avcompress.quant.stages.qat import Lesson

    task = bench.recipe.task
    detection = task if isinstance(task, Detection) else None
    losses: tuple[Loss, ...] = stage.losses or _default_losses(detection)
    teaching = Teaching(teacher=stage.teacher, losses=losses)
    labels = label_loss(bench, index, losses)

    def make(student: nn.Module, float_self: nn.Module, example: Tensor) -> Learner:
        teacher = teacher_of(bench, teaching, float_self)
        return distillation(student, teacher, teaching, example, detection, None if labels is None else labels.of)

    return Lesson(make, labels=labels is not None)


def _default_losses(task: Detection | None) -> tuple[Loss, ...]:
    return (Soft(kind="soft", temperature=1.0),) if task is None else (Response(kind="response"),)
