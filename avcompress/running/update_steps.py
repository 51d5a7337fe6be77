"""The steps that make an updated network: its ranges move to new images, then it learns them beside old ones."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from avcompress import ranks
from avcompress.checkpoint import artifact_files, load_artifact, save_artifact
from avcompress.files import sha256_file, write_atomically
from avcompress.quant.stages.adaround import require_torch
from avcompress.recipe import Detection, GeneratedSource
from avcompress.recipe_distill import Loss, Teaching, needs_labels
from avcompress.running.bench import generated_step
from avcompress.running.compress import (
    STATISTICS,
    Calibrated,
    Compressed,
    gather,
    network_step,
    ranges_in_words,
    read_skipped,
)
from avcompress.running.float_stages import keep_float
from avcompress.running.task_loss import loss_code
from avcompress.running.teaching import label_loss, teacher_code, teacher_of
from avcompress.running.training import SKIPPED, around, length, under_way
from avcompress.running.tuning import export_of
from avcompress.running.update_bench import UpdateBench
from avcompress.running.zeros import check_kept
from avcompress.spec import Track
from avcompress.state import step_key
from calibration.batches import Batches
from calibration.joined import Part, join
from calibration.statistics_file import save_statistics

if TYPE_CHECKING:
    from torch import Tensor, nn

    from avcompress.quant.stages.qat import Lesson
    from avcompress.train import Feed

RANGES, LEARN, CAST = "0-ranges", "1-update", "2-cast"


def update_network(update: UpdateBench) -> Compressed:
    """Take the steps; each one resumes. The float network stays that of the run."""
    require_torch("update")
    bench, cast = update.bench, update.previous.cast
    for part in _generated(update):
        _keep_generated(update, part)
    known = keep_float(bench, load_artifact(update.previous.float_step))
    folders = [known, _move_ranges(update, known)]
    folders.append(_learn(update, folders[-1]))
    if cast is not None:
        folders.append(network_step(bench, CAST, cast, folders[-1], None))
    return gather(bench, folders, known)._replace(
        skipped={"calibration": read_skipped(folders[1:2]), "train": read_skipped(folders[2:3])},
        calibration=Calibrated(folders[1] / STATISTICS, f"{ranges_in_words(update.previous.ptq)}, moved by an update"),
        updated_from=update.previous.sha256,
    )


def count_update_steps(update: UpdateBench) -> int:
    """The steps that `update_network` takes."""
    return 3 + (update.previous.cast is not None) + len(_generated(update))


def _generated(update: UpdateBench) -> list[str]:
    """The parts of the run's data that it has made itself."""
    data = update.previous.recipe.data
    return [part for part in ("train", "calibration") if isinstance(getattr(data, part), GeneratedSource)]


def _keep_generated(update: UpdateBench, part: str) -> None:
    """Take the step that keeps images which the run has made: they are old images of the next update, too."""
    name = generated_step(part)
    made = sorted((update.previous.given.path / "state" / name).glob("*.png"))

    def compute(folder: Path, track: Track) -> None:
        for path in track(made, len(made)):
            shutil.copy(path, folder / path.name)

    key = step_key("generated", [sha256_file(path) for path in made])
    update.bench.step(name, f"keep the images that were generated ({part})", key, compute)


def _move_ranges(update: UpdateBench, known: Path) -> Path:
    """Take the step that re-estimates the ranges of activations; its log begins where the float network's ends."""
    bench, previous = update.bench, update.previous
    old, new = update.calibration

    def compute(folder: Path, track: Track) -> None:
        from avcompress.quant.stages.reestimate import reestimate

        line = f"update: of the network {previous.sha256[:16]} in {previous.given.path.name}"
        artifact = replace(load_artifact(previous.step), log=(*load_artifact(known).log, line))
        name = artifact.model.graph.input[0].name
        preprocess = bench.recipe.preprocess
        before, after = (Batches(each, preprocess, name, track) for each in (old, new))
        done, statistics = reestimate(artifact, previous.ptq, before, after)
        save_artifact(done, folder)
        save_statistics(statistics, folder / STATISTICS)
        write_atomically(folder / SKIPPED, json.dumps([*old.skipped, *new.skipped]))

    images = (old.fingerprint, new.fingerprint, bench.recipe.preprocess.model_dump())
    key = step_key("ranges", artifact_files(previous.step), previous.ptq.model_dump(), *images)
    return bench.step(RANGES, f"re-estimate ranges ({len(old)} old images, {len(new)} new)", key, compute)


def _learn(update: UpdateBench, before: Path) -> Path:
    """Take the step that trains; killed, it goes on from its last checkpoint."""
    settings, new = update.settings.qat, update.new.train
    bench = replace(update.bench, train=join([Part("old", update.replayed), Part("new", new)]))
    losses = [[loss.model_dump() for loss in each] for each in (update.losses, update.replay_losses)]
    made = [*teacher_code(bench, "qat", settings.teacher), *loss_code(bench, "qat", settings)]
    made.append(step_key("replay", losses, update.settings.replay.share))
    images = (update.replayed.fingerprint, new.fingerprint, bench.recipe.preprocess.model_dump())
    versions = (artifact_files(update.previous.step), artifact_files(before))
    key = step_key("update", versions, settings.model_dump(), *images, made)

    def compute(folder: Path, track: Track) -> None:
        from avcompress.quant.stages.qat import learn

        artifact = load_artifact(before)
        with around(bench, LEARN, settings, made, export_of(artifact), track) as surroundings:
            done = learn(artifact, settings, _feed(update, track), _lesson(update), surroundings)
        check_kept(artifact, done)
        save_artifact(done, folder)
        write_atomically(folder / SKIPPED, json.dumps([*update.replayed.skipped, *new.skipped]))

    title = f"learn new images, {update.settings.replay.share:g} of each batch old ({length(settings)})"
    folder = bench.step(LEARN, title, key, compute, together=True)
    if ranks.leads():
        shutil.rmtree(under_way(bench, LEARN), ignore_errors=True)
    return folder


def _feed(update: UpdateBench, track: Track) -> Feed:
    from avcompress.train import load, replaying

    settings, preprocess = update.settings.qat, update.bench.recipe.preprocess
    old, new = (
        load(source, preprocess, track, settings.hold_mb, labels=needs_labels(losses))
        for source, losses in ((update.replayed, update.replay_losses), (update.new.train, update.losses))
    )
    return replaying(old, new, settings, update.settings.replay.fraction)


def _lesson(update: UpdateBench) -> Lesson:
    """Old images by the version before the update, new ones by the float network or the teacher that is named."""
    from avcompress.distill import Distillation, Replayed, Subject, distillation
    from avcompress.onnx_import import import_onnx
    from avcompress.quant.stages.qat import Lesson

    bench, settings = update.bench, update.settings
    task = bench.recipe.task if isinstance(bench.recipe.task, Detection) else None

    def make(student: nn.Module, float_self: nn.Module, example: Tensor) -> Replayed:
        def learning(where: str, teacher: nn.Module, losses: tuple[Loss, ...]) -> Distillation:
            labels = label_loss(bench, where, losses, settings.qat)
            subject = Subject(task, None if labels is None else labels.of)
            return distillation(student, teacher, Teaching(losses=losses), example, subject)

        before = import_onnx(load_artifact(update.previous.step).model).requires_grad_(False).eval()
        better = teacher_of(bench, Teaching(teacher=settings.qat.teacher, losses=update.losses), float_self)
        old = learning("replay", before, update.replay_losses)
        return Replayed(old, learning("qat", better, update.losses), settings.replay.fraction)

    return Lesson(make, labels=needs_labels((*update.losses, *update.replay_losses)))
