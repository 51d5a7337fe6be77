"""The main job: network -> stages -> quantized ONNX -> engines -> measurements -> verdict -> report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from avcompress import ranks
from avcompress.bench import Bench, Job, outside, prepare
from avcompress.compress import Compressed, compress, count_stage_steps
from avcompress.files import write_atomically
from avcompress.measuring import EngineResult, build_all, measure_engine, measure_reference, take_pictures
from avcompress.outdir import occupy
from avcompress.recipe import RtxEngine
from avcompress.reporting import compose_report
from avcompress.spec import Verdict
from avcompress.watch import SilentWatch, Watch
from validation.page import write_report
from validation.pictures import Picture
from validation.report import Report

__all__ = ["Job", "Outcome", "execute"]


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
            compress(prepare(job, SilentWatch()))
            return None
        bench = prepare(job, watch)
        with occupy(job.out, job.resume, [engine.backend for engine in bench.engines]):
            write_atomically(job.out / "recipe.yaml", job.recipe_path.read_bytes())
            ranks.wait()
            return _execute(bench)


def _execute(bench: Bench) -> Outcome:
    job, watch = bench.job, bench.watch
    watch.begin(_count_steps(bench))
    for line in (*bench.notes, *outside(bench)):
        watch.note(line)
    compressed = compress(bench)
    ranks.part()
    built = build_all(bench, compressed)
    reference = measure_reference(bench, compressed.reference)
    results = tuple(
        EngineResult(engine, found, measure_engine(bench, compressed, found, engine) if found.runs_here else None)
        for engine, found in zip(bench.engines, built, strict=True)
    )
    report, verdict = compose_report(bench, compressed, reference, results)
    for line in report.notes[len(bench.notes) :]:
        watch.note(line)
    with watch.step("write the report", reused=False):
        write_report(report, _pictures(bench, compressed, results), job.out)
    return Outcome(report, verdict, job.out)


def _pictures(bench: Bench, compressed: Compressed, results: tuple[EngineResult, ...]) -> tuple[Picture, ...]:
    """Pictures by the first engine that ran, rather one whose latency counts."""
    ran = [result for result in results if result.measured is not None]
    timed = [result for result in ran if result.measured and result.measured.latency]
    return take_pictures(bench, compressed.reference, (timed or ran)[0]) if ran else ()


def _count_steps(bench: Bench) -> int:
    measured = sum(not isinstance(engine, RtxEngine) for engine in bench.engines)
    return 1 + count_stage_steps(bench.recipe) + len(bench.engines) + 1 + measured + 1
