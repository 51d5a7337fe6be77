"""Stores what a validation measured as a baseline, and reads it back as a reference."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

from avcompress import __version__
from avcompress.judging.findings import Findings
from avcompress.judging.measuring import Measured
from avcompress.recipe import DataSource, GeneratedSource, SceneSource
from avcompress.recipe_drive import RosbagSource
from avcompress.spec import DataError
from avcompress.trial import Trial
from validation.baseline import Baseline, BaselineFacts, data_set, read_baseline, write_baseline
from validation.comparison import EVERYWHERE
from validation.contract_check import corruption_slices
from validation.machine import library_versions
from validation.truth import Truth

NETWORK = "network"


def store_baseline(folder: Path, findings: Findings, network_sha256: str, source: DataSource) -> None:
    """Store the first network that was measured: predictions, figures, latencies; raises RecipeError, OutputError.

    `source` is the recipe's, of the validation images.
    """
    engine, measured = next(iter(findings.engines.items()))
    everywhere = findings.comparisons[engine].slices[EVERYWHERE]
    trial = findings.trial
    facts = BaselineFacts(
        created=datetime.now(timezone.utc),
        recipe=trial.name,
        data=data_set(findings.truth, _called(source)),
        network_sha256=network_sha256,
        versions={"avcompress": __version__, **library_versions()},
        figures={NETWORK: {metric: found.value for metric, found in everywhere.network.items()}},
        latency_ms={
            each: {scenario: result.samples_ms for scenario, result in found.latency.items()}
            for each, found in findings.engines.items()
        },
        settings={"task": trial.task.model_dump(mode="json"), "preprocess": trial.preprocess.model_dump(mode="json")},
    )
    write_baseline(folder, Baseline(facts, {NETWORK: measured.predictions, **measured.corrupted}))


def read_reference(folder: Path, trial: Trial, truth: Truth, source: DataSource) -> Measured:
    """A stored baseline as a reference; `source` as for store_baseline.

    Raises DataError for one of other data, classes or another task, or without a corruption that the trial asks for.
    """
    found = read_baseline(folder, data_set(truth, _called(source))).predictions
    wanted = corruption_slices(trial.validation)
    missing = [name for name in (NETWORK, *wanted) if name not in found]
    if missing:
        raise DataError(
            f"{folder}: expected a baseline with {', '.join(missing)}, got one with {', '.join(found)}; store it anew"
        )
    return Measured(found[NETWORK], {name: found[name] for name in wanted})


def _called(source: DataSource) -> str:
    """What people call a data set: its folder of images."""
    # A drive has no labels, and judges nothing.
    return source.format if isinstance(source, GeneratedSource | RosbagSource | SceneSource) else source.images
