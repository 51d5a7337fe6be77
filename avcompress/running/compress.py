"""From a recipe's network through its stages to one quantized ONNX."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from avcompress import ranks
from avcompress.checkpoint import (
    DECISIONS,
    NETWORK,
    REFERENCE,
    artifact_files,
    load_artifact,
    load_decisions,
    save_artifact,
)
from avcompress.files import sha256_file, write_atomically
from avcompress.quant.apply import NetworkStage, apply, title
from avcompress.quant.stages.ptq import calibrate, calibration_settings, quantize
from avcompress.recipe import Cast, FloatTraining, GeneratedSource, Ptq, Recipe, Shrinking
from avcompress.recipe_qat import Qat
from avcompress.running.bench import Bench
from avcompress.running.float_stages import count_float_steps, take_float_stages
from avcompress.running.mixing import choose_step, chosen_before
from avcompress.running.shrinking import FACTORIZED, read_facts
from avcompress.running.targeting import cast_of
from avcompress.running.task_loss import loss_code
from avcompress.running.teaching import teacher_code
from avcompress.running.training import SKIPPED, seen_by
from avcompress.running.tuning import qat_step
from avcompress.running.zeros import check_kept
from avcompress.spec import Artifact, Track
from avcompress.state import step_key
from calibration.batches import Batches
from calibration.statistics_file import load_statistics, save_statistics
from validation.report import Factorization, Pruning, Rewriting

STATISTICS = "calibration.stats"


class Calibrated(NamedTuple):
    """Where ranges came from: a file of statistics, and how a range follows from them, in words."""

    statistics: Path
    ranges: str


class Compressed(NamedTuple):
    """What the stages made.

    Attributes:
        reference: the float ONNX that accuracy drops are measured against.
        counterpart: the float ONNX that has the quantized one's tensors: after what prepared it for quantization.
        network: the quantized ONNX.
        artifact: the quantized network and what was decided about it.
        before_cast: the step's folder that holds the network as it was before a `cast`, or else the last one's.
        logs: what each step said, by the step's name.
        skipped: by role, train and calibration, the images left out because they cannot be read.
        smaller: the float ONNX that was made of it; None where nothing makes it smaller.
        prunings, factorizations, rewritings: what the steps tell that removed channels, took layers apart, or wrote
            operators as others.
        calibration: the file of statistics that the ranges of activations follow from, and how; None without any.
        updated_from: the sha256 of the network that this one is an update of; empty of a run.
    """

    reference: Path
    counterpart: Path
    network: Path
    artifact: Artifact
    before_cast: Path
    logs: Mapping[str, tuple[str, ...]]
    skipped: Mapping[str, tuple[str, ...]]
    smaller: Path | None = None
    prunings: tuple[Pruning, ...] = ()
    factorizations: tuple[Factorization, ...] = ()
    rewritings: tuple[Rewriting, ...] = ()
    calibration: Calibrated | None = None
    updated_from: str = ""


def compress(bench: Bench) -> Compressed:
    """Load the network and run the recipe's stages; each one is a step that resumes.

    Those that train the float network or make it smaller come first; the network before the first one that makes it
    smaller, or after the last of them, is the float reference.
    """
    floats = take_float_stages(bench)
    folders = [floats.network]
    for index, stage in enumerate(bench.recipe.stages):
        if not isinstance(stage, FloatTraining | Shrinking):
            folders += _run_stage(bench, index, stage, folders[-1])
    made = gather(bench, folders, floats.reference)
    return made._replace(
        smaller=floats.network / NETWORK if floats.network != floats.reference else None,
        prunings=read_facts(floats.steps, Pruning),
        factorizations=read_facts(floats.steps, Factorization),
        rewritings=read_facts(floats.steps, Rewriting),
        logs=_logs([*floats.steps, *folders[1:]]),
        skipped=_skipped(bench, floats.steps, folders[1:]),
        calibration=_calibrated(bench),
    )


def gather(bench: Bench, folders: list[Path], kept: Path) -> Compressed:
    """What the steps in these folders made, `kept` the one that holds the float network; model.onnx is written."""
    network = bench.job.out / NETWORK
    if ranks.leads():
        write_atomically(network, (folders[-1] / NETWORK).read_bytes())
    reference = kept / NETWORK
    return Compressed(
        reference=reference,
        counterpart=next((path for path in (folders[-1] / REFERENCE,) if path.exists()), reference),
        network=network,
        artifact=load_artifact(folders[-1]),
        before_cast=folders[-2 if cast_of(bench.recipe) is not None else -1],
        logs=_logs(folders),
        skipped={},
    )


def _calibrated(bench: Bench) -> Calibrated | None:
    for index, stage in enumerate(bench.recipe.stages):
        if isinstance(stage, Ptq):
            path = bench.inputs.get(f"stages[{index}].statistics")
            return Calibrated(path or bench.state.folder / f"{index}-calibrate" / STATISTICS, ranges_in_words(stage))
    return None


def ranges_in_words(stage: Ptq) -> str:
    """How a range follows from statistics."""
    return f"percentile {stage.percentile:g}" if stage.ranges == "percentile" else stage.ranges


def count_stage_steps(recipe: Recipe) -> int:
    """The steps that a recipe's network, stages and generated images take.

    One each, and one to calibrate where no file of statistics is given.
    """
    others = [stage for stage in recipe.stages if not isinstance(stage, FloatTraining | Shrinking)]
    calibrated = sum(isinstance(stage, Ptq) and stage.statistics is None for stage in others)
    made = sum(isinstance(part, GeneratedSource) for part in (recipe.data.train, recipe.data.calibration))
    chosen = sum(isinstance(stage, Ptq) and stage.mixed is not None for stage in others)
    return count_float_steps(recipe) + len(others) + calibrated + chosen + made


def _logs(folders: list[Path]) -> dict[str, tuple[str, ...]]:
    """What each step added to the log of the network that it was given."""
    logs = [(folder.name, load_decisions(folder, None).log) for folder in folders if (folder / DECISIONS).exists()]
    known = 0
    added = {}
    for name, log in logs:
        added[name] = log[known:]
        known = len(log)
    return added


def _skipped(bench: Bench, steps: tuple[Path, ...], folders: list[Path]) -> dict[str, tuple[str, ...]]:
    """By role, the images left out in the folders of the float stages' steps, and of those after them."""
    floats = [folder for folder in steps if not folder.name.endswith(FACTORIZED)]
    learned = [*floats, *(folder for folder in folders if folder.name.endswith("-qat"))]
    others = [folder for folder in (*steps, *folders) if folder not in learned]
    if bench.train is None:
        return {"train": (), "calibration": read_skipped([*learned, *others])}
    return {"train": read_skipped(learned), "calibration": read_skipped(others)}


def read_skipped(folders: list[Path]) -> tuple[str, ...]:
    """The images that the steps in these folders left out."""
    paths = [folder / SKIPPED for folder in folders]
    return tuple(dict.fromkeys(name for path in paths if path.exists() for name in json.loads(path.read_text())))


def _run_stage(bench: Bench, index: int, stage: NetworkStage | Qat, before: Path) -> tuple[Path, ...]:
    """Take the steps of one stage; the last folder holds the network."""
    if isinstance(stage, Qat):
        where = f"stages[{index}]"
        made = [*teacher_code(bench, where, stage.teacher), *loss_code(bench, where, stage)]
        key = step_key("qat", artifact_files(before), stage.model_dump(), *seen_by(bench), made)
        return (qat_step(bench, index, stage, before, key, made),)
    if isinstance(stage, Ptq):
        return _ptq(bench, index, stage, before)
    if isinstance(stage, Cast):
        stage = chosen_before(bench, stage)
    return (network_step(bench, f"{index}-{stage.kind}", stage, before, None),)


def _ptq(bench: Bench, index: int, stage: Ptq, before: Path) -> tuple[Path, ...]:
    """Calibrate in a step of its own, unless the recipe has a file of statistics: other ranges need no image again."""
    if stage.statistics is not None:
        file = bench.inputs[f"stages[{index}].statistics"]
        chosen, said = choose_step(bench, index, stage, before, file)
        return (network_step(bench, f"{index}-ptq", chosen, before, file, said),)

    def compute(folder: Path, track: Track) -> None:
        artifact = load_artifact(before)
        save_statistics(calibrate(artifact, stage, _batches(bench, artifact, track)), folder / STATISTICS)
        write_atomically(folder / SKIPPED, json.dumps(bench.calibration.skipped))

    key = step_key("calibrate", artifact_files(before), calibration_settings(stage), *_images(bench))
    folder = bench.step(f"{index}-calibrate", f"calibrate ({len(bench.calibration)} images)", key, compute)
    chosen, said = choose_step(bench, index, stage, before, folder / STATISTICS)
    return folder, network_step(bench, f"{index}-ptq", chosen, before, folder / STATISTICS, said)


def network_step(
    bench: Bench, name: str, stage: NetworkStage, before: Path, statistics: Path | None, said: tuple[str, ...] = ()
) -> Path:
    """Take the step of one stage on the artifact that lies in `before`; `ptq` wants a file of statistics, if any.

    `said`: what its log begins with.
    """

    def compute(folder: Path, track: Track) -> None:
        artifact = load_artifact(before)
        artifact = replace(artifact, log=(*artifact.log, *said))
        if isinstance(stage, Ptq) and statistics is not None:
            done = quantize(artifact, stage, _batches(bench, artifact, track), load_statistics(statistics))
        else:
            done = apply(stage, artifact, _batches(bench, artifact, track))
        check_kept(artifact, done)
        save_artifact(done, folder)
        write_atomically(folder / SKIPPED, json.dumps(bench.calibration.skipped))

    known = sha256_file(statistics) if statistics is not None else ""
    key = step_key(stage.kind, artifact_files(before), stage.model_dump(), known, said, *_images(bench))
    return bench.step(name, title(stage, len(bench.calibration)), key, compute)


def _batches(bench: Bench, artifact: Artifact, track: Track) -> Batches:
    return Batches(bench.calibration, bench.recipe.preprocess, artifact.model.graph.input[0].name, track)


def _images(bench: Bench) -> tuple[object, str]:
    return bench.recipe.preprocess.model_dump(), bench.calibration.fingerprint
