"""What networks give on a trial's images: the labels, then predictions and latencies; a step each."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from avcompress.contract import Contract, Scenario
from avcompress.files import write_atomically
from avcompress.spec import Track
from avcompress.state import step_key
from avcompress.steps import Steps
from avcompress.trial import Subject, Trial
from calibration.sample import Sample, Source
from engines.session import Session
from validation.corruptions import CorruptedSource, parse_corruptions
from validation.detection import tally_boxes
from validation.latency import ScenarioResult, Speedup, measure_scenario, speedup_of, time_in_turns
from validation.machine import processors, runtime_versions
from validation.predict import predict, stages
from validation.predictions import BoxPredictions, MaskPredictions, Predictions, check_predictions, collect
from validation.predictions_file import load_predictions, save_predictions
from validation.scenario_file import read_scenario, scenario_json
from validation.segmentation import tally_masks
from validation.truth import Truth, read_truth
from validation.truth_file import load_truth, save_truth

TIMED_IMAGES = 16
"""What a latency is measured on: post-processing takes longer where there is more to see."""
PREDICTIONS, TRUTH = "predictions.npz", "truth.npz"
TIMED, FLOAT, TURNS = "latency.json", "float.json", "turns.npy"


@dataclass(frozen=True)
class Measured:
    """What one network gave.

    Attributes:
        predictions: on the validation images.
        corrupted: on the same images corrupted, by slice: fog:3.
        latency: by scenario; empty where it was not asked for.
        float_latency: of the float network on the same engine, one image after the other; None where it was not timed.
        speedup: against the same, both in turns; None where nobody asked for it.
    """

    predictions: Predictions
    corrupted: Mapping[str, Predictions] = field(default_factory=dict)
    latency: Mapping[str, ScenarioResult] = field(default_factory=dict)
    float_latency: ScenarioResult | None = None
    speedup: Speedup | None = None


def read_labels(steps: Steps, trial: Trial, of: str = "") -> Truth:
    """Read the validation labels, or what the last run kept of them; `of` names another set than the recipe's."""

    def compute(folder: Path, track: Track) -> None:
        save_truth(folder / TRUTH, read_truth(trial.source, track))

    key = step_key("labels", trial.source.fingerprint, trial.classes)
    name, title = (f"labels-{of}", f"read the labels, {of}") if of else ("labels", "read the validation labels")
    return load_truth(steps.take(name, title, key, compute) / TRUTH)


def skipped(trial: Trial, truth: Truth) -> tuple[str, ...]:
    """The validation images that cannot be read."""
    readable = set(truth.names)
    return tuple(name for name in trial.source.names if name not in readable)


def find_all(steps: Steps, trial: Trial, subject: Subject, truth: Truth) -> Measured:
    """Predict on the validation images, and on each of the corrupted sets that the trial asks for; a step each."""
    seed = trial.validation.seed
    corrupted = {
        corruption.slice: _predict(steps, trial, subject, truth, CorruptedSource(trial.source, corruption, seed))
        for corruption in parse_corruptions(trial.validation.corruptions)
    }
    return Measured(_predict(steps, trial, subject, truth, trial.source), corrupted)


def time_all(
    steps: Steps, trial: Trial, subject: Subject, beside: Subject | None = None
) -> tuple[dict[str, ScenarioResult], ScenarioResult | None]:
    """Time one image after the other, and every other scenario that the contract names for this engine; a step each.

    `beside`, the float network on the same engine, is timed just before, so that the two can be compared.
    """
    found: dict[str, ScenarioResult] = {}
    float_latency = None
    for scenario in scenarios(trial.contract, subject.name):
        other = beside if scenario == "single_stream" else None
        folder = _time(steps, trial, scenario, subject, other)
        found[scenario] = read_scenario((folder / TIMED).read_bytes())
        if other is not None:
            float_latency = read_scenario((folder / FLOAT).read_bytes())
    return found, float_latency


def measure_speedup(steps: Steps, trial: Trial, subject: Subject, beside: Subject) -> Speedup:
    """Time an engine in turns with the float network on the same engine, both in this process; a step."""

    def compute(folder: Path, track: Track) -> None:  # noqa: ARG001
        with beside.open() as before, subject.open() as after:
            times = time_in_turns(_running(trial, before), _running(trial, after), trial.measure.runs)
            np.save(folder / TURNS, times)

    keys = (subject.key, beside.key, trial.source.fingerprint, trial.running, trial.measure.model_dump())
    key = step_key("speedup", keys, runtime_versions(), processors())
    folder = steps.take(f"speedup-{subject.name}", f"time in turns, {subject.name}", key, compute, still=True)
    return speedup_of(np.load(folder / TURNS))


def _running(trial: Trial, session: Session) -> Callable[[], object]:
    """What runs a session on the next image, made ready before; it was run on each of them once."""
    functions = stages(session, trial.preprocess, trial.task)
    ready = [functions["preprocess"](sample.image) for sample in itertools.islice(trial.source, TIMED_IMAGES)]
    for image in ready:
        functions["inference"](image)
    ring = itertools.cycle(ready)
    return lambda: functions["inference"](next(ring))


def scenarios(contract: Contract, engine: str) -> tuple[Scenario, ...]:
    """How the latency of an engine is measured: one image after the other, then as the contract names."""
    named = (term.scenario for term in contract.latency if term.engine == engine)
    return tuple(dict.fromkeys(("single_stream", *named)))


def accuracy(trial: Trial, session: Session, samples: Iterable[Sample], truth: Truth) -> Mapping[str, float]:
    """The metrics of one session on labelled images, by name."""
    found = collect(predict(session, samples, trial.preprocess, trial.task), trial.classes)
    weights = np.ones((len(found.names), 1))
    if isinstance(found, BoxPredictions) and trial.threshold is not None:
        figures = tally_boxes(truth, found, trial.threshold).figures(weights)
    elif isinstance(found, MaskPredictions):
        figures = tally_masks(truth, found).figures(weights)
    else:
        raise ValueError("accuracy: expected masks, or boxes with a threshold")
    return {name: float(values[0]) for name, values in figures.items()}


def time_session(trial: Trial, session: Session, scenario: Scenario) -> ScenarioResult:
    """Time the stages on validation images in turn; nobody watches, since a live display costs a tail."""
    images = [sample.image for sample in itertools.islice(trial.source, TIMED_IMAGES)]
    return measure_scenario(scenario, stages(session, trial.preprocess, trial.task), images, trial.measure)


def _predict(steps: Steps, trial: Trial, subject: Subject, truth: Truth, source: Source) -> Predictions:
    """Take the step that predicts on one source: the validation images as they are, or corrupted."""

    def compute(folder: Path, track: Track) -> None:
        with subject.open() as session:
            samples = track(source, len(source))
            found = collect(predict(session, samples, trial.preprocess, trial.task), trial.classes)
        check_predictions(found, truth)
        save_predictions(folder / PREDICTIONS, found, {"data": source.fingerprint})

    corruption = source.corruption.slice if isinstance(source, CorruptedSource) else ""
    key = step_key("predict", subject.key, trial.running, source.fingerprint, runtime_versions())
    name = f"predict-{subject.name}-{corruption}".rstrip("-").replace(" ", "-").replace(":", "-")
    title = f"predict, {subject.name}, {corruption}".rstrip(", ")
    found, _ = load_predictions(steps.take(name, title, key, compute) / PREDICTIONS)
    return found


def _time(steps: Steps, trial: Trial, scenario: Scenario, subject: Subject, beside: Subject | None) -> Path:
    """Take the step that times one scenario."""

    def compute(folder: Path, track: Track) -> None:  # noqa: ARG001
        for name, timed in ((FLOAT, beside), (TIMED, subject)):
            if timed is not None:
                with timed.open() as session:
                    write_atomically(folder / name, scenario_json(time_session(trial, session, scenario)))

    keys = [timed.key for timed in (subject, beside) if timed is not None]
    images = (trial.source.fingerprint, trial.running, trial.measure.model_dump())
    key = step_key("time", scenario, keys, images, runtime_versions(), processors())
    title = f"time, {subject.name}, {scenario.replace('_', ' ')}"
    return steps.take(f"time-{subject.name}-{scenario}", title, key, compute, still=True)
