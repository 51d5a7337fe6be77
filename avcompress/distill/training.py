"""Distillation as a step of compression: a network learns from a teacher on the training loop."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import onnx
from torch import Tensor, fx, nn

from avcompress.distill.distillation import Distillation, distillation, label_free
from avcompress.distill.terms import Subject
from avcompress.onnx_import import import_onnx, write_back
from avcompress.recipe import Detection, Preprocess
from avcompress.recipe_distill import Distill
from avcompress.spec import Artifact
from avcompress.train import Around, TaskLoss, Turn, feed, load, run_steps, settled
from avcompress.train.recovery import explained, own_loss
from calibration.sample import Source


@dataclass(frozen=True)
class Guidance:
    """What a student learns from.

    Attributes:
        teacher: takes the student's inputs; it stays as it is, but for mutual learning.
        task: how a detector's output is decoded.
        loss: of the labels, where a loss of the recipe needs them; None: the module's own.
        output: the one of a module's several outputs that the teacher's is held against, by its name in the export.
    """

    teacher: nn.Module
    task: Detection | None = None
    loss: TaskLoss | None = None
    output: str | None = None


def distill(
    artifact: Artifact,
    settings: Distill,
    samples: Source,
    preprocessing: Preprocess,
    guidance: Guidance,
    around: Around | None = None,
) -> Artifact:
    """Train a copy of the artifact's network on what a teacher says of the samples, labelled or not.

    A torch module stays one; an ONNX network, float or with Q/DQ, keeps its graph and gets new weights, and where
    the settings name a `batch_norm` other than frozen, new statistics. Returns the artifact with the averaged weights
    and one more line in its log.
    Raises DataError for samples without labels where a loss needs them, ModelError where the two networks do not fit
    each other, RecipeError for losses that the task has not.
    """
    around, start, free = around or Around(), time.monotonic(), label_free(settings.losses)
    student = _module(artifact, norms=settings.batch_norm not in {None, "frozen"})
    loss = None if free else guidance.loss or own_loss(student)
    dataset = load(samples, preprocessing, around.track, settings.hold_mb, labels=loss is not None and loss.labels)
    plan = settled(settings, len(dataset.pictures))
    batches = feed(dataset, plan)
    example, _ = dataset.batch([0], np.random.default_rng(plan.seed))
    subject = Subject(guidance.task, None if loss is None else loss.of, guidance.output)
    distilled = distillation(student, guidance.teacher, settings, example, subject)

    def loss_of(turn: Turn) -> Tensor:
        inputs, batch = batches(turn)
        inputs = inputs.to(plan.device)
        with explained(student, inputs):
            return distilled.loss(inputs, None if free else batch)

    around = replace(around, names=batches.names, inputs=lambda turn: batches(turn)[0], judge=_of_student(around))
    trained = run_steps(distilled, plan, loss_of, around)
    line = f"distill: {trained.steps} steps of {plan.batch_size} from {len(samples)} samples, loss {trained.loss:.4f}"
    if trained.metric is not None:
        line += f", best metric {trained.metric:.4f}"
    model = _network(cast(Distillation, trained.module).student, artifact)
    return replace(artifact, model=model, log=(*artifact.log, f"{line}, {time.monotonic() - start:.0f} s"))


def _module(artifact: Artifact, norms: bool) -> nn.Module:
    model = artifact.model
    return import_onnx(model, norms) if isinstance(model, onnx.ModelProto) else cast(nn.Module, copy.deepcopy(model))


def _network(student: nn.Module, artifact: Artifact) -> Any:
    """What the artifact held, with the student's weights."""
    model = artifact.model
    return write_back(cast(fx.GraphModule, student), model) if isinstance(model, onnx.ModelProto) else student.eval()


def _of_student(around: Around) -> Callable[[nn.Module], float] | None:
    """The judge of a network as one of the student within what is trained."""
    judge = around.judge
    return None if judge is None else lambda module: judge(cast(Distillation, module).student)
