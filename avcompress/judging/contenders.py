"""From what was given on the command line to networks that run here, each with the way it was made to be used."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import onnx

from avcompress.files import private_folder, sha256_file
from avcompress.float_network import with_output
from avcompress.judging.given import Given
from avcompress.quant.analysis.inspection import is_quantized
from avcompress.recipe import Engine, OpenVinoEngine, OrtEngine, Recipe, RtxEngine, TrtEngine
from avcompress.spec import EngineError, MissingError, RecipeError
from avcompress.state import step_key
from avcompress.trial import Subject, Trial
from engines.build import build_engine, open_engine, require
from engines.bundle import Trust, load_bundle
from engines.lint.read import read_model
from engines.machine import local_machine, needs_rebuild
from engines.manifest import Manifest
from engines.onnx_load import load_onnx
from engines.ort import open_ort
from engines.session import Session

Backend = str


class Contender(NamedTuple):
    """A network that runs here.

    Attributes:
        subject: what is run.
        engine: its settings.
        manifest: what travels with it; None for a plain ONNX file.
    """

    subject: Subject
    engine: Engine
    manifest: Manifest | None


def find_contenders(
    given: Given, backend: Backend | None, trust: Trust, recipe: Recipe
) -> tuple[tuple[Contender, ...], tuple[str, ...]]:
    """The engines to run: the one that is asked for, or all that run here; and a note on each that was left out.

    An ONNX file is run by ONNX Runtime unless another backend is asked for, which then builds it.
    Raises RecipeError for an engine that is not there, MissingError where none runs here.
    """
    if given.kind == "network":
        return (_built(given, backend or "ort", recipe),), ()
    if backend is not None:
        return (_present(given, backend, trust),), ()
    found, notes = [], []
    for name, manifest in given.manifests.items():
        reason = _why_not(name, manifest)
        if reason:
            notes.append(f"{name} is left out: {reason}")
        else:
            found.append(_present(given, name, trust))
    if not found:
        raise MissingError(f"{given.path}: expected an engine that runs here, got none: {'; '.join(notes)}")
    return tuple(found), tuple(notes)


def as_made(trial: Trial, manifest: Manifest | None) -> Trial:
    """The trial with the preprocessing and decoding that travel with a network; RecipeError for other classes."""
    if manifest is None:
        return trial
    if manifest.classes != trial.classes:
        raise RecipeError(
            f"{manifest.name}: expected the classes {_few(trial.classes)}, got a network of {_few(manifest.classes)}; "
            "give one of the same classes"
        )
    return replace(trial, preprocess=manifest.preprocess, task=manifest.task)


def float_subject(model: onnx.ModelProto, name: str) -> Subject:
    """A network by ONNX Runtime, as fast as it goes: what drops are measured against."""
    digest = hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()
    return Subject(name, digest, lambda: _opened(model))


@contextmanager
def _opened(model: onnx.ModelProto) -> Iterator[Session]:
    with private_folder() as folder:
        path = folder / "model.onnx"
        path.write_bytes(model.SerializeToString())
        with open_ort(path, optimize=True) as session:
            yield session


def _present(given: Given, backend: Backend, trust: Trust) -> Contender:
    """An engine that is there already."""
    manifest = given.manifests.get(backend)
    if manifest is None:
        there = ", ".join(given.manifests)
        raise RecipeError(f"--engine: expected one that {given.path} has ({there}), got {backend!r}; name one of them")
    if given.kind == "bundle":
        subject = Subject(backend, given.sha256, lambda: load_bundle(given.path, trust).session)
        return Contender(subject, manifest.engine, manifest)
    reason = _unfit(manifest)
    if reason:
        raise EngineError(
            f"{given.path}, {backend}: expected an engine for this machine, got one {reason}; build it anew here"
        )
    folder = given.engine_folder(backend)
    files = {name: entry.sha256 for name, entry in manifest.files.items()}
    key = step_key(manifest.engine.model_dump(exclude={"required"}), files)
    return Contender(Subject(backend, key, lambda: open_engine(folder, manifest.engine)), manifest.engine, manifest)


def _built(given: Given, backend: Backend, recipe: Recipe) -> Contender:
    """An ONNX file, built for the time that it is measured."""
    engine = next((each for each in recipe.target.engines if each.backend == backend), None) or _plain(backend)
    require(engine)
    model = read_any(given.path, recipe)

    @contextmanager
    def build() -> Iterator[Session]:
        with private_folder() as scratch:
            path = scratch / "model.onnx"
            path.write_bytes(model.SerializeToString())
            build_engine(path, scratch / "engine", engine)
            with open_engine(scratch / "engine", engine) as session:
                yield session

    return Contender(Subject(backend, step_key(sha256_file(given.path), engine.model_dump()), build), engine, None)


def read_any(path: Path, recipe: Recipe) -> onnx.ModelProto:
    """An ONNX file: a quantized network as it is, a float one in the form that a run brings it into."""
    quantized = is_quantized(read_model(path))
    model = onnx.load(path) if quantized else load_onnx(path, recipe.preprocess.size)
    return with_output(model, recipe.model.output)


def _plain(backend: Backend) -> Engine:
    match backend:
        case "ort":
            return OrtEngine(backend="ort")
        case "openvino":
            return OpenVinoEngine(backend="openvino")
        case "trt":
            return TrtEngine(backend="trt")
        case _:
            raise RecipeError(
                f"--engine: expected ort, openvino or trt, which run a network, got {backend!r}; name one"
            )


def _why_not(backend: Backend, manifest: Manifest) -> str:
    """Why an engine does not run here; empty where it may."""
    if backend == "trt_rtx":
        return "it is built ahead of time, as a structure check"
    try:
        require(manifest.engine)
    except MissingError as error:
        return str(error)
    reason = _unfit(manifest)
    return f"it is {reason}" if reason else ""


def _unfit(manifest: Manifest) -> str:
    """Why TensorRT cannot load an engine here; others load in any version, and are measured in the one that is here."""
    if not isinstance(manifest.engine, TrtEngine | RtxEngine):
        return ""
    return needs_rebuild(manifest, local_machine(manifest.engine)) or ""


def _few(classes: tuple[str, ...]) -> str:
    return f"{', '.join(classes[:3])} ({len(classes)})" if len(classes) > 3 else ", ".join(classes)
