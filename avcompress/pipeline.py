"""The main job: network -> stages -> quantized ONNX -> engines -> measurements -> verdict -> report."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from avcompress import ranks
from avcompress.files import sha256_file, write_atomically
from avcompress.judging.drifting import alike, measure_drift
from avcompress.judging.findings import Findings, compare_all, pictures
from avcompress.judging.layer_timing import measure_float_layers, measure_layers
from avcompress.judging.measuring import Measured, find_all, measure_speedup, read_labels, scenarios, time_all
from avcompress.judging.reporting import Background, compose_report
from avcompress.outdir import occupy
from avcompress.recipe import Engine, OrtEngine, RtxEngine, Shrinking
from avcompress.running.bench import Bench, Job, outside, prepare
from avcompress.running.compress import Compressed, compress, count_stage_steps
from avcompress.running.engine_steps import build_all, engine_key
from avcompress.running.run_findings import EngineResult, mismatches, run_background
from avcompress.spec import EngineError, MissingError, ModelError, Verdict
from avcompress.trial import Subject, check_trial
from avcompress.watch import SilentWatch, Watch
from engines.build import Built, build_engine, open_engine
from engines.layer_times import LayerTimes
from engines.ort import open_ort
from engines.session import Session
from validation.drift import LayerDrift
from validation.page import write_report
from validation.report import Report
from validation.truth import Truth

__all__ = ["Job", "Outcome", "conclude", "count_measuring", "engine_subject", "execute", "measure"]

REFERENCE = "float network"


@dataclass(frozen=True)
class Outcome:
    """What a run ends with."""

    report: Report
    verdict: Verdict
    out: Path


def execute(job: Job, watch: Watch) -> Outcome | None:
    """Run a recipe from end to end; finished steps of an earlier run are kept when the job says `resume`.

    Under torchrun every process calls this. The first one does the work, the others train with it, and leave once the
    network is compressed: they return None.
    Raises AvcompressError for bad input and for what this machine lacks; the output folder then holds whole files only.
    """
    with ranks.joined():
        if not ranks.leads():
            ranks.wait()  # the first one has found the job good
            _compressed(prepare(job, SilentWatch()))
            return None
        bench = prepare(job, watch)
        with occupy(job.out, job.resume, [engine.backend for engine in bench.engines]):
            write_atomically(job.out / "recipe.yaml", job.recipe_path.read_bytes())
            ranks.wait()
            return _execute(bench)


def _execute(bench: Bench) -> Outcome:
    watch = bench.watch
    watch.begin(1 + count_stage_steps(bench.recipe) + count_measuring(bench))
    for line in (*bench.notes, *outside(bench)):
        watch.note(line)
    told = len(bench.notes)
    truth, compressed = _compressed(bench)
    ranks.part()
    findings, results = measure(bench, truth, compressed)
    dense_times = _dense_times(bench, compressed, findings, results)
    background = run_background(bench, compressed, findings, results, dense_times)
    return conclude(bench, findings, background, background.notes[told:])


def measure(bench: Bench, truth: Truth, compressed: Compressed) -> tuple[Findings, tuple[EngineResult, ...]]:
    """Build every engine, and measure those that run here beside the float network; steps that resume."""
    built = build_all(bench, compressed)
    reference = find_all(bench.steps, bench.trial, float_subject(compressed.reference), truth)
    results = tuple(
        EngineResult(engine, found, _measure(bench, compressed, truth, (engine, found)) if found.runs_here else None)
        for engine, found in zip(bench.engines, built, strict=True)
    )
    return _findings(bench, compressed, truth, reference, results), results


def conclude(
    bench: Bench, findings: Findings, background: Background, news: Sequence[str], verdict: Verdict | None = None
) -> Outcome:
    """Judge, and write the report; `news` is what has to be said of the measurements, and the verdict the contract's.

    Another verdict is taken where one is given.
    """
    report, verdict = compose_report(findings, background, verdict)
    for line in news:
        bench.watch.note(line)
    with bench.watch.step("write the report", reused=False):
        write_report(report, pictures(findings, report.beside), bench.job.out)
    return Outcome(report, verdict, bench.job.out)


def _compressed(bench: Bench) -> tuple[Truth, Compressed]:
    """The steps that every process goes through."""
    truth = read_labels(bench.steps, bench.trial)
    check_trial(bench.trial, truth)
    return truth, compress(bench)


def float_subject(network: Path, name: str = REFERENCE) -> Subject:
    """A float network by ONNX Runtime: what drops are measured against."""
    return Subject(name, sha256_file(network), lambda: open_ort(network, optimize=True))


def _measure(bench: Bench, compressed: Compressed, truth: Truth, built: tuple[Engine, Built]) -> Measured:
    """What an engine gives; its latency too unless it is the reference that no deadline speaks of."""
    engine, found = built
    subject = engine_subject(engine, found)
    measured = find_all(bench.steps, bench.trial, subject, truth)
    if not _is_timed(bench, engine):
        return measured
    beside = Subject(
        REFERENCE, sha256_file(compressed.reference), lambda: _float_engine(compressed.reference, engine, bench.job.out)
    )
    latency, float_latency = time_all(bench.steps, bench.trial, subject, beside)
    speedup = measure_speedup(bench.steps, bench.trial, subject, beside) if _is_raced(bench, engine) else None
    return replace(measured, latency=latency, float_latency=float_latency, speedup=speedup)


def engine_subject(engine: Engine, built: Built) -> Subject:
    """An engine that was built here."""
    return Subject(engine.backend, engine_key(built, engine), lambda: open_engine(built.folder, engine))


@contextmanager
def _float_engine(network: Path, engine: Engine, scratch: Path) -> Iterator[Session]:
    """The float network on the same engine, built for the measurement alone."""
    with tempfile.TemporaryDirectory(dir=scratch / "state", prefix=".", suffix=".tmp") as temporary:
        place = Path(temporary) / engine.backend
        build_engine(network, place, engine)
        with open_engine(place, engine) as session:
            yield session


def _is_timed(bench: Bench, engine: Engine) -> bool:
    reference = isinstance(engine, OrtEngine) and engine.is_reference
    contract = bench.recipe.contract
    asked = {*(term.engine for term in contract.latency), *(term.engine for term in contract.speedup)}
    return not reference or engine.backend in asked


def _is_raced(bench: Bench, engine: Engine) -> bool:
    """Whether an engine is timed in turns with the float network: where it was made smaller, or the contract asks."""
    asked = engine.backend in [term.engine for term in bench.recipe.contract.speedup]
    return asked or any(isinstance(stage, Shrinking) for stage in bench.recipe.stages)


def _findings(
    bench: Bench, compressed: Compressed, truth: Truth, reference: Measured, results: tuple[EngineResult, ...]
) -> Findings:
    layers = compressed.artifact.layers
    engines = {result.built.backend: result.measured for result in results if result.measured is not None}
    timed = [result for result in results if result.measured is not None and result.measured.latency]
    return Findings(
        trial=bench.trial,
        truth=truth,
        reference=reference,
        engines=engines,
        drift=_drift(bench, compressed),
        times=dict(_times(bench, compressed, timed)),
        comparisons=compare_all(bench.watch, bench.trial, truth, reference, engines),
        layers=layers,
        precisions={result.built.backend: result.built.precisions for result in results if result.built.precisions},
        mismatches=mismatches(layers, results),
    )


def _dense_times(
    bench: Bench, compressed: Compressed, findings: Findings, results: tuple[EngineResult, ...]
) -> dict[str, LayerTimes]:
    """By layer of the float network, of each engine that tells, where a smaller one goes beside it."""
    telling = [result.engine for result in results if result.engine.backend in findings.times]
    return {
        engine.backend: measure_float_layers(bench.steps, bench.trial, compressed.reference, engine)
        for engine in (telling if compressed.smaller is not None else ())
    }


def _times(bench: Bench, compressed: Compressed, results: list[EngineResult]) -> Iterator[tuple[str, LayerTimes]]:
    """By layer, of each engine that tells; where one does not, the report says so and has no such part."""
    for result in results:
        engine, built = result.engine, result.built
        try:
            yield engine.backend, measure_layers(bench.steps, bench.trial, compressed.network, built, engine)
        except (EngineError, MissingError) as error:
            bench.notes.append(f"{engine.backend} does not tell the time of its layers: {error}")


def _drift(bench: Bench, compressed: Compressed) -> tuple[LayerDrift, ...]:
    """By ONNX Runtime, which does not run every format: where it cannot, the report says so and has no such part."""
    try:
        if compressed.smaller is None or compressed.counterpart != compressed.reference:
            return measure_drift(bench.steps, bench.trial, compressed.counterpart, compressed.network)
        layers, others = alike(compressed.reference, compressed.network)
        bench.notes.append(
            f"error by layer leaves out {others} tensors that the network lacks, or has in another shape"
        )
        return measure_drift(bench.steps, bench.trial, compressed.reference, compressed.network, layers)
    except (ModelError, EngineError) as error:
        bench.notes.append(f"error by layer is not measured: {error}")
        return ()


def count_measuring(bench: Bench) -> int:
    """The steps from the engines on: predictions, latencies, drift, comparisons, the report."""
    run = [engine for engine in bench.engines if not isinstance(engine, RtxEngine)]
    passes = 1 + sum(len(severities) for severities in bench.recipe.validation.corruptions.values())
    timed = sum(len(scenarios(bench.recipe.contract, each.backend)) for each in run if _is_timed(bench, each))
    smaller = any(isinstance(stage, Shrinking) for stage in bench.recipe.stages)
    layers = sum(_is_timed(bench, each) for each in run) * (2 if smaller else 1)
    raced = sum(_is_timed(bench, each) and _is_raced(bench, each) for each in run)
    measured = (1 + len(run)) * passes + timed + raced + layers
    return len(bench.engines) + measured + 3
