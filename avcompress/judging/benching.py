"""`avcompress bench`: the latency of one engine, in the scenario that is asked for, and the deadline that it keeps."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from avcompress import __version__
from avcompress.contract import LatencyTerm, Measure, Scenario
from avcompress.files import private_folder
from avcompress.recipe import ImageSource, OpenVinoEngine, OrtEngine, SceneSource
from avcompress.spec import Array, EngineError, RecipeError
from calibration.preprocess import preprocess
from calibration.source import open_source
from engines.build import build_engine, open_engine
from engines.built import LAYERS
from engines.bundle import ENGINE, NETWORK, Trust, has_engine, load_bundle
from engines.machine import local_machine, needs_rebuild
from engines.manifest import NAME, Manifest, read_manifest
from engines.session import Session
from validation.latency import (
    CONFIDENCE,
    RUNS_NEEDED,
    WAITING,
    Instruments,
    ScenarioResult,
    Stages,
    background_load,
    hardest_claim,
    in_turn,
    measure_scenario,
    term_figures,
    time_each,
)
from validation.latency.facts import BenchFacts, Beside, deadline_check, misses, scenario_facts
from validation.machine import describe_machine, library_versions, state_warnings
from validation.predict import stages

IMAGES = 16
"""What is fed in turn: post-processing takes longer where there is more to see."""
_SMALLEST_SCENE, _LARGEST_SCENE = 32, 4096
_SEED = 0


@dataclass(frozen=True)
class BenchJob:
    """What to measure.

    Attributes:
        source: folder of an engine with its manifest.json, a bundle, or an ONNX file.
        beside: others, that are run in turns with it; only where images come one after the other.
        scenario: how images come.
        measure: how many, at which rate, of how many cameras, under which load.
        term: the deadline to keep; None: there is none.
        images: folder of images; None: rendered scenes.
        engine_only: leave pre- and post-processing out.
        backend: that runs an ONNX file.
        threads: of an ONNX file's engine; None: all cores.
        trust: which bundles are taken.
        every_s: how often the machine is looked at meanwhile; None: before and after.
    """

    source: Path
    scenario: Scenario = "single_stream"
    measure: Measure = field(default_factory=Measure)
    term: LatencyTerm | None = None
    images: Path | None = None
    engine_only: bool = False
    backend: Literal["ort", "openvino"] | None = None
    threads: int | None = None
    trust: Trust = field(default_factory=Trust)
    every_s: float | None = None
    beside: tuple[Path, ...] = ()


class Opened(NamedTuple):
    """An engine that is loaded; `manifest` is None for one that was built of an ONNX file here."""

    session: Session
    manifest: Manifest | None
    backend: str
    network: str
    size_bytes: int
    notes: tuple[str, ...] = ()


class _Fed(NamedTuple):
    """What runs, what it is fed in turn, and what that is, in words."""

    stages: Stages
    items: Sequence[Any]
    data: str


def check_job(job: BenchJob) -> None:
    """Raise RecipeError, before the work, for a deadline that so few images cannot decide, and what does not fit."""
    for other in job.beside:
        check_job(_alone(job, other))
    if not job.source.exists():
        raise RecipeError(f"{job.source}: expected an engine's folder or an ONNX file, got nothing; check the path")
    if job.source.is_dir() and not (job.source / NAME).exists():
        _refuse_folder(job.source)
    _check_term(job)
    if job.source.is_file():
        _check_file(job)
    elif (job.backend is not None or job.threads is not None) and not any(other.is_file() for other in job.beside):
        raise RecipeError(
            f"--backend, --threads: expected an ONNX file with them, got the folder {job.source}, whose engine has its "
            "own; leave them out"
        )


def _check_term(job: BenchJob) -> None:
    """Whether so few images can decide the deadline."""
    if job.term is None:
        return
    what, needed = hardest_claim(job.term)
    if needed is None:
        raise RecipeError(
            "--max-miss-rate: expected a rate above 0 to prove, got 0: no number of images is enough; "
            "raise it, or give --decide point"
        )
    if job.measure.runs < needed:
        raise RecipeError(
            f"--runs: expected at least {needed} to decide {what} ({job.term.decide}), got {job.measure.runs}; raise it"
        )


def _refuse_folder(folder: Path) -> None:
    """A run's own folder holds several engines: say which."""
    engines = sorted(path.parent for path in folder.glob(f"engines/*/{NAME}"))
    advice = f"give {' or '.join(map(str, engines))}" if engines else "give a run's engines/BACKEND, or a bundle"
    raise RecipeError(f"{folder}: expected the folder of one engine, with its {NAME}, got another; {advice}")


def _check_file(job: BenchJob) -> None:
    if job.source.name == NAME:
        raise RecipeError(f"{job.source}: expected the engine's folder, got its manifest; give {job.source.parent}")
    if job.backend is None:
        raise RecipeError(
            f"{job.source}: expected an engine's folder, or --backend ort or openvino to run an ONNX file by, got a "
            "file alone; give one of them"
        )
    if job.images is not None:
        raise RecipeError(
            "--images: expected an engine with a manifest, which says how images become its input, got an ONNX file; "
            "leave it out, or give the engine of a run"
        )


def bench_engine(job: BenchJob, instruments: Instruments | None = None) -> tuple[ScenarioResult, BenchFacts]:
    """Open the engine, measure it, and hold the deadline against what was found.

    Raises RecipeError, EngineError, DataError or MissingError.
    """
    check_job(job)
    with open_benched(job) as opened:
        fed = _feed(job, opened)
        used = instruments or Instruments(every_s=job.every_s)
        result = measure_scenario(job.scenario, fed.stages, fed.items, job.measure, used)
        facts = _facts(job, opened, fed, result)
    return result, facts.model_copy(update={"in_turns": _in_turns(job)}) if job.beside else facts


def _alone(job: BenchJob, source: Path) -> BenchJob:
    """The same job for one engine; what only an ONNX file is told, only where it is one."""
    own = replace(job, source=source, beside=())
    return own if source.is_file() else replace(own, backend=None, threads=None)


def _in_turns(job: BenchJob) -> tuple[Beside, ...]:
    """The engines of a job, each fed one image in turn."""
    sources = (job.source, *job.beside)
    with contextlib.ExitStack() as stack:
        jobs = [_alone(job, source) for source in sources]
        runs = [_running(_feed(own, stack.enter_context(open_benched(own)))) for own in jobs]
        with background_load(job.measure.background_load):
            found = in_turn(time_each(runs, job.measure.runs, job.measure.warmup))
    return tuple(
        Beside(engine=str(source), p50_ms=each.p50_ms, noise_ms=each.noise_ms)
        for source, each in zip(sources, found, strict=True)
    )


def _running(fed: _Fed) -> Callable[[], object]:
    """What runs all stages on the next item; it has done so once."""
    items, functions = itertools.cycle(fed.items), tuple(fed.stages.values())

    def run() -> object:
        value = next(items)
        for function in functions:
            value = function(value)
        return value

    run()
    return run


# --- the engine


@contextlib.contextmanager
def open_benched(job: BenchJob) -> Iterator[Opened]:
    """The engine of a job, closed after the block: hashes are verified before anything is loaded."""
    if job.source.is_file():
        with private_folder() as folder, _built(job, folder) as opened:
            yield opened
        return
    opened = _from_folder(job)
    with opened.session:
        yield opened


@contextlib.contextmanager
def _built(job: BenchJob, folder: Path) -> Iterator[Opened]:
    """An ONNX file's engine, built for the occasion: made for speed, not as the reference."""
    engine: OrtEngine | OpenVinoEngine
    if job.backend == "ort":
        engine = OrtEngine(backend="ort", optimize=True, threads=job.threads)
    else:
        engine = OpenVinoEngine(backend="openvino", threads=job.threads)
    built = build_engine(job.source, folder / ENGINE, engine)
    with open_engine(built.folder, engine) as session:
        yield Opened(session, None, engine.backend, job.source.name, built.size_bytes, (built.note,))


def _from_folder(job: BenchJob) -> Opened:
    folder = job.source
    manifest = read_manifest(folder, verify=False)
    # A bundle names the machine that is to build its engine, where it has none yet; loading it says so.
    if has_engine(manifest) or (NETWORK in manifest.files and manifest.target is not None):
        session, manifest = load_bundle(folder, job.trust)
        return _opened(session, manifest, f"{ENGINE}/")
    manifest = read_manifest(folder)
    reason = needs_rebuild(manifest, local_machine(manifest.engine))
    if reason is not None:
        raise EngineError(
            f"{folder}: expected an engine for this machine, got one {reason}; build it anew here: avcompress run "
            "--resume"
        )
    return _opened(open_engine(folder, manifest.engine), manifest, "")


def _opened(session: Session, manifest: Manifest, prefix: str) -> Opened:
    files = {name: entry for name, entry in manifest.files.items() if name.startswith(prefix)}
    size = sum(entry.size_bytes for name, entry in files.items() if name != f"{prefix}{LAYERS}")
    notes = []
    if isinstance(manifest.engine, OrtEngine) and manifest.engine.is_reference:
        notes.append("ort without graph optimizations is the numeric reference, not a measure of speed")
    return Opened(session, manifest, manifest.backend, manifest.name, size, tuple(notes))


# --- what it is fed


def _feed(job: BenchJob, opened: Opened) -> _Fed:
    if opened.manifest is None:
        return _Fed(_inference(opened.session), (_random_inputs(opened.session),), "random inputs, 0-255")
    images, data = _images(job, opened.manifest)
    functions = stages(opened.session, opened.manifest.preprocess, opened.manifest.task)
    if not job.engine_only:
        return _Fed(functions, images, data)
    (name,) = opened.session.inputs
    inputs = [{name: preprocess(image, opened.manifest.preprocess)[0]} for image in images]
    return _Fed(_inference(opened.session), inputs, f"{data}, preprocessed before")


def _inference(session: Session) -> Stages:
    return {"inference": session.run}


def _random_inputs(session: Session) -> dict[str, Array]:
    """One input a name: float32, of the network's shape; a batch that may vary is of one image."""
    rng = np.random.default_rng(_SEED)
    inputs = {}
    for name, shape in session.inputs.items():
        fixed = (abs(shape[0]), *shape[1:]) if shape else ()
        if min(fixed, default=1) < 1:
            raise EngineError(
                f"input {name!r}: expected a static shape but for the batch, got {tuple(shape)}; fix its dimensions"
            )
        inputs[name] = rng.uniform(0, 255, fixed).astype(np.float32)
    return inputs


def _images(job: BenchJob, manifest: Manifest) -> tuple[list[Array], str]:
    height, width = manifest.preprocess.size
    if job.images is None:
        fitted = (_fit(height), _fit(width))
        source = open_source(SceneSource(format="scenes", count=IMAGES, seed=_SEED, size=fitted), Path())
        data = f"{IMAGES} rendered scenes of {fitted[1]}x{fitted[0]}"
    else:
        source = open_source(ImageSource(format="images", images=".", recursive=True), job.images)
        data = f"{min(IMAGES, len(source))} images of {job.images}"
    # Spread over the folder: neighbours are often frames of one drive.
    chosen = sorted({round(i * (len(source) - 1) / max(IMAGES - 1, 1)) for i in range(min(IMAGES, len(source)))})
    return [source[index].image for index in chosen], data


def _fit(side: int) -> int:
    return min(max(side, _SMALLEST_SCENE), _LARGEST_SCENE)


# --- what was found


def _facts(job: BenchJob, opened: Opened, fed: _Fed, result: ScenarioResult) -> BenchFacts:
    term = job.term
    figures = term_figures(term, result) if term else ()
    checks = tuple(deadline_check(figure, term.decide) for figure in figures) if term else ()
    facts = scenario_facts(result)
    return BenchFacts(
        created=datetime.now(timezone.utc),
        engine=str(job.source),
        network=opened.network,
        backend=opened.backend,
        size_bytes=opened.size_bytes,
        timed="end to end" if "preprocess" in fed.stages else "engine only",
        data=fed.data,
        confidence=CONFIDENCE,
        scenario=facts,
        misses=misses(result, term.deadline_ms) if term else None,
        checks=checks,
        passed=all(check.passed for check in checks) if checks else None,
        warnings=tuple(_warnings(result)),
        notes=(*opened.notes, *_too_few(result)),
        machine={key: str(value) for key, value in describe_machine().model_dump().items()},
        versions={"avcompress": __version__, **library_versions()},
    )


def _warnings(result: ScenarioResult) -> Iterator[str]:
    yield from (f"throttled: {line}" for line in result.throttled)
    yield from state_warnings(result.machine)
    yield from _busy(result)
    came = len(result.samples_ms) + len(result.dropped_s)
    if result.dropped_s:
        share = 100 * len(result.dropped_s) / came
        yield f"{len(result.dropped_s)} of {came} images were dropped ({share:.3g} %): they miss every deadline"
    if result.scenario != "single_stream":
        cameras = result.measure.cameras if result.scenario == "multi_camera" else 1
        period_ms = 1e3 / (result.measure.rate_hz * cameras)
        work_ms = sum(stage.mean for name, stage in result.stages.items() if name != WAITING)
        if work_ms > period_ms:
            grows = "images are dropped" if result.measure.queue == "newest" else "they wait longer and longer"
            yield f"an image takes {work_ms:.3g} ms, and one comes every {period_ms:.3g} ms: {grows}"


def _busy(result: ScenarioResult) -> Iterator[str]:
    """Whether others were at work, as far as a mean over the last minute tells it."""
    first = result.machine.states[0].load_average if result.machine.states else None
    cores = describe_machine().cores
    if first is not None and first - result.measure.background_load > cores:
        yield (
            f"load average {first:g} on {cores} cores before the measurement: other programs want them, too; end them, "
            "and measure again"
        )


def _too_few(result: ScenarioResult) -> Iterator[str]:
    came = len(result.samples_ms) + len(result.dropped_s)
    lacking = [f"{name} takes {needed}" for name, needed in RUNS_NEEDED.items() if came < needed]
    if lacking:
        yield f"{came} images are too few for some percentiles: {', '.join(lacking)} (--runs)"
