"""Puts together what a run measured of its engines, and what its report says beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

from avcompress.files import sha256_file
from avcompress.judging.findings import Findings
from avcompress.judging.measuring import Measured, skipped
from avcompress.judging.reporting import Background, skipped_note, source_facts
from avcompress.recipe import Engine, Sources
from avcompress.running.bench import Bench
from avcompress.running.compress import Compressed
from avcompress.running.smaller_facts import smaller_facts
from avcompress.spec import LayerPlan
from calibration.drives import drive_sources
from calibration.source import Source
from engines.built import LAYERS, MODEL, Built
from engines.layer_map import compare, read_counts
from engines.layer_times import LayerTimes
from engines.planned import plan_in
from validation.report import EngineFacts, LayerCounts, Provenance, SourceFacts
from validation.report.facts import layer_times


@dataclass(frozen=True)
class EngineResult:
    """An engine that was built, and what it gave where it runs here."""

    engine: Engine
    built: Built
    measured: Measured | None


def mismatches(layers: tuple[LayerPlan, ...], results: tuple[EngineResult, ...]) -> dict[str, tuple[str, ...]]:
    """By engine that is held to the plan of layers, those that are not as planned: only TensorRT's are.

    OpenVINO's plugin may fuse or widen a layer as it likes; the plan is a plan for TensorRT.
    """
    found = {}
    for result in results:
        if layers and result.built.backend in {"trt", "trt_rtx"} and result.built.precisions is not None:
            plan = plan_in(result.built.dialect, layers, result.built.told)
            found[result.built.backend] = tuple(each.message for each in compare(plan, result.built.precisions))
    return found


def run_background(
    bench: Bench,
    compressed: Compressed,
    findings: Findings,
    results: tuple[EngineResult, ...],
    dense_times: Mapping[str, LayerTimes],
) -> Background:
    """What the report of a run says beside the measurements; `dense_times` are of the float network's layers."""
    validation = skipped(findings.trial, findings.truth)
    left_out = {**compressed.skipped, "validation": validation}
    notes = (line for role, names in left_out.items() for line in skipped_note(role, names))
    return Background(
        engines=tuple(_engines(bench, results)),
        passed=tuple(bench.passed),
        sources=dict(_sources(bench, findings, compressed)),
        logs=compressed.logs,
        inputs={label: str(path) for label, path in bench.inputs.items()},
        notes=(*bench.notes, *notes, *_drive_notes(bench)),
        smaller=smaller_facts(compressed, {name: layer_times(found) for name, found in dense_times.items()}),
        provenance=Provenance(
            seeds={"bootstrap and corruptions": bench.recipe.validation.seed},
            networks={"float": sha256_file(compressed.reference), "compressed": sha256_file(compressed.network)},
        ),
    )


def _drive_notes(bench: Bench) -> Iterator[str]:
    """What images from recorded drives cover of them."""
    for role, source in (("train", bench.train), ("calibration", bench.calibration)):
        if source is not None:
            yield from (f"{role}: {drive.coverage.line}" for drive in drive_sources(source))


def _engines(bench: Bench, results: tuple[EngineResult, ...]) -> Iterator[EngineFacts]:
    """Every engine of the recipe in its order, the skipped ones too."""
    by_backend = {result.built.backend: result for result in results}
    skipped_engines = {note.partition(" ")[0]: note for note in bench.notes}
    for engine in bench.recipe.target.engines:
        if engine.backend in by_backend:
            yield _built_facts(by_backend[engine.backend])
        else:
            note = skipped_engines.get(engine.backend, "skipped")
            yield EngineFacts(name=engine.backend, backend=engine.backend, runs_here=False, note=note)


def _built_facts(result: EngineResult) -> EngineFacts:
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


def _sources(bench: Bench, findings: Findings, compressed: Compressed) -> Iterator[tuple[str, SourceFacts]]:
    opened = {"train": bench.train, "calibration": bench.calibration}
    for role, source in opened.items():
        if source is not None:
            yield role, _source(getattr(bench.recipe.data, role), source, compressed.skipped.get(role, ()))
    yield "validation", source_facts(findings.trial, findings, bench.recipe.data.validation.format)


def _source(settings: Sources, source: Source, left_out: tuple[str, ...]) -> SourceFacts:
    formats = [each.format for each in (settings if isinstance(settings, tuple) else (settings,))]
    return images_facts(", ".join(dict.fromkeys(formats)), source, left_out)


def images_facts(kind: str, source: Source, left_out: tuple[str, ...]) -> SourceFacts:
    """A set of images of a format; `left_out` are the names of those, of any set, that could not be read."""
    used = len(source.names) - sum(name in left_out for name in source.names)
    return SourceFacts(format=kind, images=used, skipped=left_out, fingerprint=source.fingerprint)
