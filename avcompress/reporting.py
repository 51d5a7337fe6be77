"""Gathers what a run did, measured and decided into the report."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime, timezone

from avcompress import __version__
from avcompress.bench import Bench
from avcompress.compress import Compressed
from avcompress.measuring import EngineResult, Measured
from avcompress.recipe import DataSource
from avcompress.spec import LayerPlan, Verdict
from calibration.source import Source
from engines.built import LAYERS, MODEL, Built
from engines.layer_map import compare, read_counts
from engines.planned import plan_in
from validation.gates import Evidence, explain, judge
from validation.latency import TOTAL
from validation.machine import describe_machine, library_versions
from validation.report import (
    Accuracy,
    EngineFacts,
    LatencyFacts,
    LayerCounts,
    Report,
    SourceFacts,
    StageFacts,
)
from validation.report.facts import contract_lines, latency_facts, layer_facts


def gather(compressed: Compressed, reference: Measured, results: tuple[EngineResult, ...]) -> Evidence:
    """What the contract is held against: latency is end to end, and only TensorRT has to keep the plan of layers."""
    layers = compressed.artifact.layers
    ran = {result.built.backend: result.measured for result in results if result.measured is not None}
    return Evidence(
        reference=reference.metrics,
        metrics={name: measured.metrics for name, measured in ran.items()},
        latency={name: measured.latency[TOTAL] for name, measured in ran.items() if measured.latency},
        layers=layers,
        mismatches=dict(_mismatches(layers, results)),
    )


def _mismatches(
    layers: tuple[LayerPlan, ...], results: tuple[EngineResult, ...]
) -> Iterator[tuple[str, tuple[str, ...]]]:
    # OpenVINO's plugin may fuse or widen a layer as it likes; the plan is a plan for TensorRT.
    for result in results:
        if layers and result.built.backend in {"trt", "trt_rtx"} and result.built.precisions is not None:
            plan = plan_in(result.built.dialect, layers, result.built.told)
            found = compare(plan, result.built.precisions)
            yield result.built.backend, tuple(mismatch.message for mismatch in found)


def compose_report(
    bench: Bench, compressed: Compressed, reference: Measured, results: tuple[EngineResult, ...]
) -> tuple[Report, Verdict]:
    """The verdict, and the report that holds it."""
    evidence = gather(compressed, reference, results)
    contract = bench.recipe.contract
    verdict = judge(contract, evidence)
    layers = compressed.artifact.layers
    report = Report(
        recipe=bench.recipe.name,
        task=bench.recipe.task.kind,
        created=datetime.now(timezone.utc),
        passed=verdict.passed,
        contract=contract_lines(verdict),
        notes=(*bench.notes, *_skipped(reference, compressed), *explain(contract, evidence)),
        accuracy=Accuracy(
            reference=dict(reference.metrics),
            engines={name: dict(metrics) for name, metrics in evidence.metrics.items()},
        ),
        latency={result.built.backend: _latency(bench, result) for result in results if _timed(result)},
        layers=layer_facts(
            layers, {result.built.backend: result.built.precisions for result in results if result.built.precisions}
        ),
        engines=tuple(_engines(bench, results)),
        stages=_stages(bench, compressed),
        sources=dict(_sources(bench, reference, compressed)),
        inputs={label: str(path) for label, path in bench.inputs.items()},
        machine=describe_machine(),
        versions={"avcompress": __version__, **library_versions()},
    )
    return report, verdict


def _timed(result: EngineResult) -> bool:
    return result.measured is not None and bool(result.measured.latency)


def _latency(bench: Bench, result: EngineResult) -> LatencyFacts:
    if result.measured is None:
        raise ValueError(f"{result.built.backend}: expected a measurement, got none")
    terms = [term for term in bench.recipe.contract.latency if term.engine == result.built.backend]
    measured = result.measured
    return latency_facts(measured.latency, bench.recipe.measure.warmup, terms, measured.float_latency)


def _stages(bench: Bench, compressed: Compressed) -> tuple[StageFacts, ...]:
    """Every step with its time; what the network's log says goes with the step that said it."""
    return tuple(
        StageFacts(name=step.title, seconds=step.seconds, log=compressed.logs.get(step.name, ()))
        for step in bench.passed
    )


def _engines(bench: Bench, results: tuple[EngineResult, ...]) -> Iterator[EngineFacts]:
    """Every engine of the recipe in its order, the skipped ones too."""
    built = {result.engine.backend: result for result in results}
    for engine in bench.recipe.target.engines:
        if engine.backend in built:
            yield _engine(built[engine.backend])
        else:
            note = next((note for note in bench.notes if note.startswith(engine.backend)), "skipped")
            yield EngineFacts(name=engine.backend, backend=engine.backend, runs_here=False, note=note)


def _engine(result: EngineResult) -> EngineFacts:
    built = result.built
    return EngineFacts(
        name=built.backend,
        backend=built.backend,
        file=f"engines/{built.backend}/{MODEL[built.backend]}",
        size_bytes=built.size_bytes,
        seconds=built.seconds,
        runs_here=built.runs_here,
        note="; ".join((built.note, *built.notes)),
        layer_counts=_layer_counts(built),
    )


def _layer_counts(built: Built) -> LayerCounts | None:
    counts = read_counts(built.folder / LAYERS) if LAYERS in built.files else None
    return None if counts is None else LayerCounts(**asdict(counts))


def _sources(bench: Bench, reference: Measured, compressed: Compressed) -> Iterator[tuple[str, SourceFacts]]:
    opened = {"train": bench.train, "calibration": bench.calibration, "validation": bench.validation}
    skipped = {**compressed.skipped, "validation": reference.skipped}
    for role, source in opened.items():
        if source is not None:
            yield role, _source(getattr(bench.recipe.data, role), source, skipped.get(role, ()))


def _source(settings: DataSource, source: Source, skipped: tuple[str, ...]) -> SourceFacts:
    used = len(source.names) - sum(name in skipped for name in source.names)
    return SourceFacts(format=settings.format, images=used, skipped=skipped, fingerprint=source.fingerprint)


def _skipped(reference: Measured, compressed: Compressed) -> Iterator[str]:
    for role, names in {**compressed.skipped, "validation": reference.skipped}.items():
        if names:
            more = " …" if names[5:] else ""
            yield f"{role}: {len(names)} unreadable images were skipped: {', '.join(names[:5])}{more}"
