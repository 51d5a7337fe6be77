"""Compares two finished networks: what they differ in, and, where data are given, what that does to their results."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple

import onnx
from pydantic import Field

from avcompress.files import private_folder, sha256_file
from avcompress.frozen import Model
from avcompress.inputs import check_labelled, find_validation
from avcompress.judging.contenders import Contender, as_made, find_contenders
from avcompress.judging.differences import (
    Difference,
    FileDifference,
    LayerDifference,
    Side,
    file_differences,
    layer_differences,
    setting_differences,
)
from avcompress.judging.drifting import measure_drift
from avcompress.judging.findings import Findings, compare_all, pictures
from avcompress.judging.given import Given, identify
from avcompress.judging.measuring import Measured, find_all, read_labels, skipped, time_all
from avcompress.judging.regressions import regressions
from avcompress.judging.reporting import Background, compose_report, skipped_note, source_facts
from avcompress.outdir import refuse_others
from avcompress.recipe import Recipe
from avcompress.recipe_load import load_recipe
from avcompress.spec import EngineError, LayerPlan, ModelError, RecipeError, Verdict
from avcompress.state import State
from avcompress.steps import Steps
from avcompress.trial import Trial, trial_of
from avcompress.watch import Watch
from calibration.source import open_source
from engines.bundle import Trust
from engines.manifest import Manifest
from engines.planned import planned_layers
from validation.drift import LayerDrift
from validation.page import write_report
from validation.report import EngineFacts, Report
from validation.truth import Truth

A, B = "A", "B"


@dataclass(frozen=True)
class CompareJob:
    """What to compare, on what, and where the results go.

    Attributes:
        a, b: runs' folders, bundles, engines' folders or ONNX files; A is what B is held against.
        recipe: names the data; None: that of a run, where one of both is one.
        data_root: where the recipe's paths start; None: the recipe's folder.
        engine: the backend to compare; None: the first that both have.
        min_sqnr_db: what every layer of B must keep beside A; None: nothing.
        out: folder for the report.
        trust: which bundles are taken.
    """

    a: Path
    b: Path
    recipe: Path | None = None
    data_root: Path | None = None
    engine: str | None = None
    min_sqnr_db: float | None = None
    out: Path | None = None
    trust: Trust = field(default_factory=Trust)


class Differences(Model):
    """All that two networks differ in."""

    schema_version: Literal[1] = Field(1, description="version of this layout; a change that breaks readers raises it")
    a: Side = Field(description="what B is held against")
    b: Side = Field(description="what is compared with A")
    settings: tuple[Difference, ...] = Field(description="settings and contract terms that are not the same")
    files: tuple[FileDifference, ...] = Field(description="files that are not the same")
    layers: tuple[LayerDifference, ...] = Field(description="layers that are planned in another precision")
    report: Report | None = Field(
        None,
        description="B beside A on the data, as `avcompress validate` reports; its contract is that nothing is proven "
        "worse; null where no data were given",
    )


class Compared(NamedTuple):
    """What a comparison ends with.

    Attributes:
        verdict: a check for each thing that may not be proven worse; None where nothing was measured.
        notes: what people should know.
    """

    differences: Differences
    verdict: Verdict | None
    findings: Findings | None
    notes: tuple[str, ...]
    out: Path | None


class _Ground(NamedTuple):
    """What both are measured on."""

    recipe: Recipe
    trial: Trial


class _Pair(NamedTuple):
    """Both sides, and the backend that is compared; empty where they have none in common."""

    a: Given
    b: Given
    backend: str

    @property
    def manifests(self) -> tuple[Manifest | None, Manifest | None]:
        """What travels with the engine that is compared, of each side."""
        return tuple(each.manifests.get(self.backend) or each.manifest for each in (self.a, self.b))  # type: ignore[return-value]


def compare(job: CompareJob, watch: Watch) -> Compared:
    """Compare B with A; write the report into `out` where data are given.

    Raises AvcompressError for bad input and for what this machine lacks; then nothing is written.
    """
    if job.out is not None:
        refuse_others(job.out)
    pair = _pair(job)
    plans = (_layers(pair.a), _layers(pair.b))
    differences = Differences(
        a=_side(pair.a, pair),
        b=_side(pair.b, pair),
        settings=setting_differences(*pair.manifests),
        files=file_differences(*(each.files if each else {} for each in pair.manifests)),
        layers=layer_differences(*plans) if all(plans) else (),
    )
    ground = _ground(job, pair)
    if ground is None:
        note = "nothing is measured: no data are given; give --recipe, and --data-root where it needs one"
        return Compared(differences, None, None, (note,), None)
    with private_folder() as scratch:
        steps = Steps(watch, State(scratch))
        findings, notes = _measure(job, pair, ground, steps)
    verdict = Verdict(regressions(findings, A, job.min_sqnr_db))
    report, _ = compose_report(findings, _background(pair, ground, steps, findings, notes), verdict)
    if job.out is not None:
        write_report(report, pictures(findings, report.beside), job.out)
    return Compared(differences.model_copy(update={"report": report}), verdict, findings, notes, job.out)


def _pair(job: CompareJob) -> _Pair:
    a, b = identify(job.a, job.trust), identify(job.b, job.trust)
    common = [name for name in b.manifests if name in a.manifests and name != "trt_rtx"]
    backend = job.engine or (common[0] if common else "")
    if not backend and a.manifests and b.manifests:
        there = f"{', '.join(a.manifests)} and {', '.join(b.manifests)}"
        raise RecipeError(f"--engine: expected an engine that both have, got {there}; compare two of one backend")
    return _Pair(a, b, backend)


def _side(given: Given, pair: _Pair) -> Side:
    manifest = given.manifests.get(pair.backend) or given.manifest
    size = sum(entry.size_bytes for entry in manifest.files.values()) if manifest else given.path.stat().st_size
    return Side(
        path=str(given.path),
        kind=given.kind,
        engine=pair.backend if pair.backend in given.manifests else "",
        size_bytes=size,
        network_sha256=manifest.onnx_sha256 if manifest else sha256_file(given.path),
    )


def _layers(given: Given) -> tuple[LayerPlan, ...]:
    if given.network is None:
        return ()
    return planned_layers(onnx.load(given.network, load_external_data=False), given.network.parent)


def _ground(job: CompareJob, pair: _Pair) -> _Ground | None:
    """What to measure on; None where nobody says where the data are."""
    path = job.recipe or (pair.b.recipe or pair.a.recipe if job.data_root else None)
    if path is None:
        return None
    recipe = load_recipe(path)
    root = (job.data_root or path.parent).resolve()
    find_validation(recipe, root)
    check_labelled("data.validation", recipe.data.validation, recipe.task)
    manifest = pair.manifests[1] or pair.manifests[0]
    classes = manifest.classes if manifest else recipe.classes
    source = open_source(recipe.data.validation, root, classes)
    return _Ground(recipe, trial_of(recipe, classes or source.classes, source))


def _measure(job: CompareJob, pair: _Pair, ground: _Ground, steps: Steps) -> tuple[Findings, tuple[str, ...]]:
    recipe, trial = ground
    contenders = tuple(
        find_contenders(given, pair.backend if given.manifests else pair.backend or None, job.trust, recipe)[0][0]
        for given in (pair.a, pair.b)
    )
    layered = pair.a.network is not None and pair.b.network is not None
    # The labels, both latencies, the comparison; error by layer; predictions of both.
    steps.watch.begin(4 + layered + 2 * (1 + sum(map(len, trial.validation.corruptions.values()))))
    truth = read_labels(steps, trial)
    a, b = (_try(steps, trial, truth, each, name) for each, name in zip(contenders, (A, B), strict=True))
    drift, notes = _drift(pair, steps, as_made(trial, contenders[1].manifest))
    findings = Findings(
        trial=as_made(trial, contenders[1].manifest),
        truth=truth,
        reference=a,
        engines={A: a, B: b},
        comparisons=compare_all(steps.watch, trial, truth, a, {B: b}),
        drift=drift,
        layers=_layers(pair.b),
    )
    return findings, notes


def _try(steps: Steps, trial: Trial, truth: Truth, contender: Contender, name: str) -> Measured:
    """What one side gives: predictions, and the latency of one image after the other."""
    own, subject = as_made(trial, contender.manifest), replace(contender.subject, name=name)
    measured = find_all(steps, own, subject, truth)
    latency, _ = time_all(steps, own, subject)
    return replace(measured, latency=latency)


def _drift(pair: _Pair, steps: Steps, trial: Trial) -> tuple[tuple[LayerDrift, ...], tuple[str, ...]]:
    """How far B's layers are from A's, where both networks are at hand and share tensors."""
    if pair.a.network is None or pair.b.network is None:
        return (), ("layers are not compared: an engine's folder comes without its network",)
    try:
        drift = measure_drift(steps, trial, pair.a.network, pair.b.network)
    except (ModelError, EngineError) as error:  # ONNX Runtime does not run every format
        return (), (f"layers are not compared: {error}",)
    first = next((layer for layer in drift if layer.sqnr_db != math.inf), None)
    what = "all layers are equal" if first is None else f"the first layer that differs is {first.layer}"
    return drift, (f"{what} ({first.sqnr_db:.1f} dB)" if first else what,)


def _background(pair: _Pair, ground: _Ground, steps: Steps, findings: Findings, notes: tuple[str, ...]) -> Background:
    differs = f"B, {pair.b.path}, beside A, {pair.a.path}: the contract here is that nothing is proven worse"
    left_out = skipped_note("validation", skipped(findings.trial, findings.truth))
    sides = zip((A, B), (pair.a, pair.b), strict=True)
    return Background(
        engines=tuple(
            EngineFacts(name=name, backend=pair.backend, size_bytes=_side(given, pair).size_bytes, runs_here=True)
            for name, given in sides
        ),
        passed=tuple(steps.passed),
        sources={"validation": source_facts(findings.trial, findings, ground.recipe.data.validation.format)},
        notes=(differs, *notes, *left_out),
        reference=f"A, {pair.a.path}",
    )
