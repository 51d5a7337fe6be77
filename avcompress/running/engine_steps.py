"""Builds the engines of a bench; each has its manifest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx

from avcompress import __version__
from avcompress.files import sha256_file, write_atomically
from avcompress.recipe import Engine
from avcompress.running.bench import Bench
from avcompress.running.compress import Compressed
from avcompress.running.provenance import calibration_facts, familiar_of
from avcompress.spec import EngineError, Track
from avcompress.state import hashes, step_key
from avcompress.step_cache import link_folder
from engines.build import Built, build_engine
from engines.machine import building_gpu
from engines.manifest import Manifest, network_tensors, read_manifest, write_manifest
from validation.machine import processors, runtime_versions

ENGINE, RESULT = "engine", "result.json"


def build_all(bench: Bench, compressed: Compressed) -> tuple[Built, ...]:
    """Build every engine of the bench into `engines/<backend>/`, each with its manifest; a step each."""
    return tuple(_build(bench, compressed, engine) for engine in bench.engines)


def engine_key(built: Built, engine: Engine) -> str:
    """What stands for an engine: its settings and its files."""
    return step_key(_settings(engine), {file: sha256_file(built.folder / file) for file in built.files})


def _build(bench: Bench, compressed: Compressed, engine: Engine) -> Built:
    # What layers run in is a processor's, and what TensorRT builds a GPU's.
    known = (_settings(engine), runtime_versions(), processors())
    key = step_key("build", sha256_file(compressed.network), *known)

    def compute(folder: Path, track: Track) -> None:
        built = build_engine(compressed.network, folder / ENGINE, engine, track)
        write_atomically(folder / RESULT, json.dumps(asdict(built), default=str))

    folder = bench.steps.take(f"build-{engine.backend}", f"build {engine.backend}", key, compute)
    facts = json.loads((folder / RESULT).read_text())
    final = bench.job.out / "engines" / engine.backend
    if not _holds(final, folder / ENGINE):
        link_folder(folder / ENGINE, final)
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
        calibration=calibration_facts(compressed),
        familiar=familiar_of(compressed),
        onnx_sha256=sha256_file(compressed.network),
        recipe_sha256=sha256_file(bench.job.out / "recipe.yaml"),
        updated_from=compressed.updated_from or None,
    )


def _settings(engine: Engine) -> dict[str, Any]:
    """What decides an engine: whether it is required does not."""
    return engine.model_dump(exclude={"required"})


def _holds(folder: Path, engine: Path) -> bool:
    """Whether a folder has its manifest, and the engine's files as they were built."""
    try:
        files = read_manifest(folder).files
    except EngineError:
        return False
    return hashes(engine).items() <= {name: entry.sha256 for name, entry in files.items()}.items()
