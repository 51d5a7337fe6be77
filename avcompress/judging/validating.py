"""Judges a finished network against its contract: measures it here, beside a reference or a stored baseline."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import onnx

from avcompress.files import private_folder, sha256_file
from avcompress.inputs import check_labelled, find_validation
from avcompress.judging.baselines import store_baseline
from avcompress.judging.contenders import Contender, as_made, find_contenders
from avcompress.judging.drifting import measure_drift
from avcompress.judging.findings import Findings, compare_all, pictures
from avcompress.judging.given import Given, identify
from avcompress.judging.judgeable import judgeable
from avcompress.judging.measuring import Measured, find_all, read_labels, scenarios, skipped, time_all
from avcompress.judging.references import Against, Origin, find_reference, float_model, is_results, read_results
from avcompress.judging.reporting import Background, compose_report, skipped_note, source_facts
from avcompress.outdir import refuse_others
from avcompress.recipe_load import load_recipe
from avcompress.spec import LayerPlan, RecipeError, Verdict
from avcompress.state import State
from avcompress.steps import Steps
from avcompress.trial import Trial, check_trial, trial_of
from avcompress.watch import Watch
from calibration.source import open_source
from engines.bundle import Trust
from engines.planned import planned_layers
from validation.drift import LayerDrift
from validation.page import write_report
from validation.report import EngineFacts, Provenance, Report
from validation.truth import Truth

PREDICTIONS = "predictions"


@dataclass(frozen=True)
class ValidateJob:
    """What to judge, on what, and where the results go.

    Attributes:
        what: a run's folder, a bundle, an engine's folder or an ONNX file; None where `predictions` are judged alone.
        recipe: names the data and the contract; None: that of the run.
        data_root: where the recipe's paths start; None: the recipe's folder.
        against: what it is held against.
        save_baseline: where to store what was measured.
        predictions: COCO results that were made elsewhere, in place of the network's own.
        engine: the one backend to judge.
        out: folder for the report.
        trust: which bundles are taken.
    """

    what: Path | None
    recipe: Path | None = None
    data_root: Path | None = None
    against: Against = field(default_factory=Against)
    save_baseline: Path | None = None
    predictions: Path | None = None
    engine: str | None = None
    out: Path | None = None
    trust: Trust = field(default_factory=Trust)


class Validated(NamedTuple):
    """What a validation ends with."""

    report: Report
    verdict: Verdict
    out: Path | None


class Setting(NamedTuple):
    """A job whose inputs were found good.

    Attributes:
        given: what is judged; None where predictions alone are.
        contenders: its engines that run here.
        notes: what people should know.
    """

    job: ValidateJob
    origin: Origin
    trial: Trial
    given: Given | None
    contenders: tuple[Contender, ...]
    notes: tuple[str, ...]


def validate(job: ValidateJob, watch: Watch) -> Validated:
    """Measure, compare, judge; write the report into `out`, and the baseline where one is asked for.

    Raises AvcompressError for bad input and for what this machine lacks; then nothing is written.
    """
    setting = prepare_validation(job)
    with private_folder() as scratch:
        steps = Steps(watch, State(scratch))
        watch.begin(_count_steps(setting))
        for line in setting.notes:
            watch.note(line)
        findings = find(setting, steps)
        report, verdict = compose_report(findings, background(setting, steps, findings))
    for line in skipped_note("validation", skipped(setting.trial, findings.truth)):
        watch.note(line)
    if job.save_baseline is not None:
        source = setting.origin.recipe.data.validation
        store_baseline(job.save_baseline, findings, _network_sha256(setting), source)
    if job.out is not None:
        with watch.step("write the report", reused=False):
            write_report(report, pictures(findings, report.beside), job.out)
    return Validated(report, verdict, job.out)


def prepare_validation(job: ValidateJob) -> Setting:
    """Everything cheap that can be wrong is found here; nothing is written."""
    _refuse_contradictions(job)
    given = identify(job.what, job.trust) if job.what else None
    path = job.recipe or (given.recipe if given else None)
    if path is None:
        raise RecipeError("--recipe: expected a recipe that names the labelled images, got none; give one")
    recipe = load_recipe(path)
    folder = path.resolve().parent
    origin = Origin(recipe, folder, (job.data_root or folder).resolve(), job.trust)
    find_validation(recipe, origin.root)
    check_labelled("data.validation", recipe.data.validation, recipe.task)
    made, notes = find_contenders(given, job.engine, job.trust, recipe) if given and not job.predictions else ((), ())
    manifest = given.manifest if given else None
    source = open_source(recipe.data.validation, origin.root, manifest.classes if manifest else recipe.classes)
    trial = trial_of(recipe, (manifest.classes if manifest else recipe.classes) or source.classes, source)
    if manifest is not None and job.recipe is None:
        trial = replace(trial, contract=manifest.contract)
    contract, left_out = judgeable(trial.contract, _measured_engines(job, given, made), _has_layers(job, given))
    trial = as_made(replace(trial, contract=contract), manifest)
    return Setting(job, origin, trial, given, made, (*notes, *left_out))


def find(setting: Setting, steps: Steps) -> Findings:
    """Everything that is measured."""
    trial, given = setting.trial, setting.given
    truth = read_labels(steps, trial)
    check_trial(trial, truth)
    reference = find_reference(setting.job.against, given, setting.origin, steps, trial, truth)
    engines = dict(_measure(setting, steps, truth))
    return Findings(
        trial=trial,
        truth=truth,
        reference=reference,
        engines=engines,
        comparisons=compare_all(steps.watch, trial, truth, reference, engines),
        drift=_drift(setting, steps) if trial.contract.drift else (),
        layers=_layers(given) if _has_layers(setting.job, given) else (),
    )


def background(setting: Setting, steps: Steps, findings: Findings) -> Background:
    """What the report says beside the measurements."""
    left_out = skipped(setting.trial, findings.truth)
    networks = {"network": _network_sha256(setting)} if setting.given else {}
    baseline = setting.job.against.baseline
    return Background(
        engines=tuple(_engine_facts(setting)),
        passed=tuple(steps.passed),
        sources={"validation": source_facts(setting.trial, findings, setting.origin.recipe.data.validation.format)},
        notes=(*setting.notes, *skipped_note("validation", left_out)),
        reference=setting.job.against.words,
        provenance=Provenance(
            seeds={"bootstrap and corruptions": setting.trial.validation.seed},
            networks=networks,
            baseline=str(baseline) if baseline else "",
        ),
    )


def _refuse_contradictions(job: ValidateJob) -> None:
    if job.what is None and job.predictions is None:
        raise RecipeError("WHAT: expected a run, a bundle, an engine or an ONNX file, got nothing; name one")
    if job.against.reference is not None and job.against.baseline is not None:
        raise RecipeError("--baseline: expected it or --reference, got both; give one")
    if job.predictions is not None and job.engine is not None:
        raise RecipeError("--engine: expected none beside --predictions, which no engine makes here; leave it out")
    if job.out is not None:
        refuse_others(job.out)


def _measured_engines(job: ValidateJob, given: Given | None, made: tuple[Contender, ...]) -> list[str] | None:
    """Whose deadlines are judged; None: those of the whole contract, as the run that is judged had them."""
    whole = given is not None and given.kind == "run" and job.engine is None and job.predictions is None
    return None if whole else [each.subject.name for each in made]


def _has_layers(job: ValidateJob, given: Given | None) -> bool:
    return given is not None and given.network is not None and job.predictions is None


def _measure(setting: Setting, steps: Steps, truth: Truth) -> Iterator[tuple[str, Measured]]:
    if setting.job.predictions is not None:
        yield PREDICTIONS, read_results(setting.job.predictions, setting.origin, setting.trial, truth)
    for subject, _, _ in setting.contenders:
        measured = find_all(steps, setting.trial, subject, truth)
        latency, _ = time_all(steps, setting.trial, subject)
        yield subject.name, replace(measured, latency=latency)


def _drift(setting: Setting, steps: Steps) -> tuple[LayerDrift, ...]:
    """From the network that was named, quantized or not, else from the float network with the same tensors."""
    given, named, trial = setting.given, setting.job.against.reference, setting.trial
    if given is None or given.network is None:
        return ()
    other = identify(named, setting.job.trust) if named is not None and not is_results(named) else None
    if other is not None and other.kind != "network" and other.network is not None:
        return measure_drift(steps, trial, other.network, given.network)
    if other is None and given.counterpart is not None:
        return measure_drift(steps, trial, given.counterpart, given.network)
    return measure_drift(steps, trial, float_model(other.path if other else None, given, setting.origin), given.network)


def _layers(given: Given | None) -> tuple[LayerPlan, ...]:
    """What the network itself asks of its layers."""
    if given is None or given.network is None:
        return ()
    return planned_layers(onnx.load(given.network, load_external_data=False), given.network.parent)


def _engine_facts(setting: Setting) -> Iterator[EngineFacts]:
    for subject, engine, manifest in setting.contenders:
        files = manifest.files if manifest else {}
        size = sum(entry.size_bytes for name, entry in files.items()) or None
        yield EngineFacts(name=subject.name, backend=engine.backend, size_bytes=size, runs_here=True)
    if setting.job.predictions is not None:
        note = f"results made elsewhere: {setting.job.predictions.name}"
        yield EngineFacts(name=PREDICTIONS, backend=PREDICTIONS, runs_here=False, note=note)


def _network_sha256(setting: Setting) -> str:
    given = setting.given
    if given is None:
        return sha256_file(setting.job.predictions) if setting.job.predictions else ""
    if given.manifest is not None:
        return given.manifest.onnx_sha256
    return sha256_file(given.path)


def _count_steps(setting: Setting) -> int:
    trial, made, job = setting.trial, setting.contenders, setting.job
    passes = 1 + sum(len(severities) for severities in trial.validation.corruptions.values())
    timed = sum(len(scenarios(trial.contract, each.subject.name)) for each in made)
    predicted = passes * (len(made) + (not job.against.is_stored))
    return 2 + predicted + timed + (trial.contract.drift is not None) + (job.out is not None)
