"""Builds the engines of a bench and measures what runs on this machine."""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx

from avcompress import __version__
from avcompress.bench import Bench
from avcompress.compress import Compressed
from avcompress.files import sha256_file, write_atomically
from avcompress.provenance import calibration_facts
from avcompress.recipe import Detection, Engine, OrtEngine
from avcompress.spec import EngineError, Track
from avcompress.state import step_key
from calibration.part import take_part
from calibration.source import Sample
from engines.build import Built, build_engine, open_engine
from engines.machine import building_gpu
from engines.manifest import Manifest, network_tensors, read_manifest, write_manifest
from engines.ort import open_ort
from engines.session import Session
from validation.changes import find_changes
from validation.detection import evaluate_detection
from validation.latency import TOTAL, Latency, measure_stages
from validation.machine import runtime_versions
from validation.pictures import Picture
from validation.predict import predict, stages
from validation.predictions import collect
from validation.segmentation import evaluate_segmentation
from validation.truth import read_truth
from validation.worst import Compared, worst_pictures

REFERENCE = "float network"
RESULT = "result.json"
PICTURES = 6
TIMED_IMAGES = 16
"""What a latency is measured on: post-processing takes longer where there is more to see."""


@dataclass(frozen=True)
class Measured:
    """What one session gave on the validation images.

    Attributes:
        metrics: by name; NaN where the labels hold no such object.
        latency: by stage from image to prediction, and their total; empty where it was not asked for.
        float_latency: the float network's total on the same engine; None where it was not asked for.
        skipped: names of the images left out because they cannot be read.
    """

    metrics: Mapping[str, float]
    latency: Mapping[str, Latency]
    float_latency: Latency | None
    skipped: tuple[str, ...]


@dataclass(frozen=True)
class EngineResult:
    """An engine that was built, and what it gave where it runs here."""

    engine: Engine
    built: Built
    measured: Measured | None


def build_all(bench: Bench, compressed: Compressed) -> tuple[Built, ...]:
    """Build every engine of the bench into `engines/<backend>/`, each with its manifest; a step each."""
    return tuple(_build(bench, compressed, engine) for engine in bench.engines)


def measure_reference(bench: Bench, network: Path) -> Measured:
    """Measure the float network's accuracy by ONNX Runtime."""
    return _measure(bench, REFERENCE, sha256_file(network), lambda: open_ort(network, optimize=True), None)


def measure_engine(bench: Bench, compressed: Compressed, built: Built, engine: Engine) -> Measured:
    """Measure an engine's accuracy, and its latency unless it is the reference that no deadline speaks of.

    The float network's latency is measured just before on the same engine, so that the two can be compared.
    """
    key = step_key(_settings(engine), {file: sha256_file(built.folder / file) for file in built.files})
    reference = isinstance(engine, OrtEngine) and engine.is_reference
    timed = not reference or engine.backend in [t.engine for t in bench.recipe.contract.latency]

    def time_float(folder: Path) -> Latency:
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            place = Path(temporary) / engine.backend
            build_engine(compressed.reference, place, engine)
            with open_engine(place, engine) as session:
                return _latency(bench, session)[TOTAL]

    return _measure(
        bench, engine.backend, key, lambda: open_engine(built.folder, engine), time_float if timed else None
    )


def take_pictures(bench: Bench, reference: Path, result: EngineResult) -> tuple[Picture, ...]:
    """Picture what got worse on validation images spread over the set."""
    source = take_part(bench.validation, 1, -(-len(bench.validation) // PICTURES))
    task, classes = bench.recipe.task, bench.classes
    with open_ort(reference, optimize=True) as before, open_engine(result.built.folder, result.engine) as after:
        left, right = (
            collect(predict(session, source, bench.recipe.preprocess, task), classes) for session in (before, after)
        )
    threshold = task.deployed_threshold if isinstance(task, Detection) else None
    changes = find_changes(read_truth(source), left, right, threshold)
    return worst_pictures(source, Compared(left, right, changes), result.engine.backend)


def _build(bench: Bench, compressed: Compressed, engine: Engine) -> Built:
    final = bench.job.out / "engines" / engine.backend
    key = step_key("build", sha256_file(compressed.network), _settings(engine), runtime_versions())
    name = f"build-{engine.backend}"

    def compute(folder: Path, track: Track) -> None:
        built = build_engine(compressed.network, final, engine, track)
        write_atomically(folder / RESULT, json.dumps(asdict(built), default=str))

    if bench.state.seconds(name, key) is not None and not _is_whole(final):
        bench.state.forget(name)  # the engine was lost or altered since
    folder = bench.step(name, f"build {engine.backend}", key, compute)
    facts = json.loads((folder / RESULT).read_text())
    # Outside the step: a changed contract alone builds nothing anew, and must travel with the engine all the same.
    write_manifest(final, _manifest(bench, compressed, engine, facts))
    lists = {name: tuple(facts.get(name, ())) for name in ("files", "notes", "flags")}
    return Built(**facts | lists | {"folder": final})


def _manifest(bench: Bench, compressed: Compressed, engine: Engine, facts: Mapping[str, Any]) -> Manifest:
    inputs, outputs = network_tensors(compressed.network)
    return Manifest(
        name=bench.recipe.name,
        engine=engine.model_copy(update={"required": True}),  # not what decides an engine
        dialect=facts.get("dialect"),
        flags=tuple(facts.get("flags", ())),
        gpu=building_gpu(engine),
        versions={"avcompress": __version__, "onnx": onnx.__version__, **facts["versions"]},
        inputs=inputs,
        outputs=outputs,
        preprocess=bench.recipe.preprocess,
        task=bench.recipe.task,
        classes=bench.classes,
        contract=bench.recipe.contract,
        calibration=calibration_facts(bench),
        onnx_sha256=sha256_file(compressed.network),
        recipe_sha256=sha256_file(bench.job.out / "recipe.yaml"),
    )


def _settings(engine: Engine) -> dict[str, Any]:
    """What decides an engine: whether it is required does not."""
    return engine.model_dump(exclude={"required"})


def _is_whole(folder: Path) -> bool:
    try:
        read_manifest(folder)
    except EngineError:
        return False
    return True


def _measure(
    bench: Bench,
    name: str,
    key: str,
    open_session: Callable[[], Session],
    time_float: Callable[[Path], Latency] | None,
) -> Measured:
    """Take the step that measures one session; its latency too when there is a float network to time beside it."""
    recipe, source, timed = bench.recipe, bench.validation, time_float is not None

    def compute(folder: Path, track: Track) -> None:
        float_latency = time_float(folder).samples_ms if time_float else None
        with open_session() as session:
            latency = _latency(bench, session) if timed else {}
            metrics = accuracy(bench, session, track(source, len(source)))
        facts = {
            "metrics": metrics,
            "latency": {stage: found.samples_ms for stage, found in latency.items()},
            "float_latency": float_latency,
            "skipped": source.skipped,
        }
        write_atomically(folder / RESULT, json.dumps(facts))

    asked = (recipe.task, recipe.preprocess, recipe.measure)
    versions = runtime_versions()
    key = step_key(key, [part.model_dump() for part in asked], bench.classes, source.fingerprint, timed, versions)
    what = "accuracy and latency" if timed else "accuracy"
    folder = bench.step(f"measure-{name.replace(' ', '-')}", f"measure {what}, {name}", key, compute, still=timed)
    facts = json.loads((folder / RESULT).read_text())
    latency = {stage: Latency(tuple(samples)) for stage, samples in facts["latency"].items()}
    float_latency = Latency(tuple(facts["float_latency"])) if timed else None
    return Measured(facts["metrics"], latency, float_latency, tuple(facts["skipped"]))


def accuracy(bench: Bench, session: Session, samples: Iterable[Sample]) -> Mapping[str, float]:
    """The metrics of one session on labelled images, by name."""
    pairs: Iterable[Any] = predict(session, samples, bench.recipe.preprocess, bench.recipe.task)
    if isinstance(bench.recipe.task, Detection):
        return evaluate_detection(pairs, bench.classes).metrics
    return evaluate_segmentation(pairs, bench.classes).metrics


def _latency(bench: Bench, session: Session) -> Mapping[str, Latency]:
    """Time the stages on validation images in turn; nobody watches, since a live display costs a tail."""
    images = itertools.cycle([sample.image for sample in itertools.islice(bench.validation, TIMED_IMAGES)])
    measure = bench.recipe.measure
    functions = dict(stages(session, bench.recipe.preprocess, bench.recipe.task))
    first = functions["preprocess"]
    functions["preprocess"] = lambda _: first(next(images))
    return measure_stages(functions, None, (measure.warmup, measure.runs))
