"""From a job to its error analysis: runs the recipe's stages, then finds where the quantized network loses."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx

from avcompress.checkpoint import load_artifact
from avcompress.files import write_atomically
from avcompress.judging.measuring import accuracy, read_labels
from avcompress.outdir import enter
from avcompress.quant.analysis.analyze import SWEEP_IMAGES, Budget, Subject, analyze
from avcompress.recipe import Detection
from avcompress.running.bench import Bench, Job, prepare
from avcompress.running.compress import compress, count_stage_steps
from avcompress.spec import Artifact
from avcompress.watch import Watch
from calibration.batches import Batches
from engines.ort import open_ort
from validation.errors import ErrorAnalysis
from validation.errors_page import write_errors
from validation.gate_accuracy import is_pattern

IMAGES = 16
"""Calibration images that the dB are measured on."""


def analyze_job(job: Job, budget_s: float, watch: Watch) -> ErrorAnalysis:
    """Run a recipe's stages, keeping the finished ones of earlier runs, and write analysis.html beside them.

    Raises AvcompressError for bad input; nothing of an earlier run's report is touched.
    """
    bench = prepare(job, watch)
    with enter(job.out):
        write_atomically(job.out / "recipe.yaml", job.recipe_path.read_bytes())
        watch.begin(2 + count_stage_steps(job.recipe))
        # Without a cast: its rounding is in every tensor, and of no one layer.
        artifact = load_artifact(compress(bench).before_cast)
        # A layer that is set back to float keeps what training has made of its weights.
        artifact = artifact if artifact.trained is None else replace(artifact, reference=artifact.trained)
        analysis = _analyze(bench, artifact, budget_s)
        write_errors(analysis, job.out)
    return analysis


def _analyze(bench: Bench, artifact: Artifact, budget_s: float) -> ErrorAnalysis:
    metric, images = _metric(bench), min(IMAGES, len(bench.calibration))
    score = _score(bench, metric)
    budget = Budget(budget_s)
    with bench.watch.step(f"find where {metric} is lost, {budget_s:g} s at most", reused=False) as track:
        subject = Subject(artifact, _first(bench, artifact, images), score)
        layers, splits = analyze(subject, budget, track)
    return ErrorAnalysis(
        recipe=bench.recipe.name,
        metric=metric,
        images=images,
        sweep_images=min(SWEEP_IMAGES, images),
        budget_s=budget_s,
        seconds=budget.spent,
        splits=splits,
        layers=layers,
    )


def _metric(bench: Bench) -> str:
    """What the contract names first, or else the task's own."""
    named = (term.metric for term in bench.recipe.contract.accuracy if not is_pattern(term.metric))
    return next(named, "AP" if isinstance(bench.recipe.task, Detection) else "mIoU")


def _first(bench: Bench, artifact: Artifact, images: int) -> Batches:
    return Batches(bench.calibration, bench.recipe.preprocess, artifact.model.graph.input[0].name, limit=images)


def _score(bench: Bench, metric: str) -> Callable[[onnx.ModelProto], float]:
    """The metric of a network on the validation images, by ONNX Runtime with its optimizations off."""
    trial = bench.trial
    truth = read_labels(bench.steps, trial)

    def score(model: onnx.ModelProto) -> float:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            path.write_bytes(model.SerializeToString())
            with open_ort(path) as session:
                return accuracy(trial, session, trial.source, truth)[metric]

    return score
