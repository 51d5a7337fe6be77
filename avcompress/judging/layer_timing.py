"""What each layer takes in an engine that tells it; a step."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import onnx

from avcompress.files import private_folder, sha256_file, write_atomically
from avcompress.recipe import Engine
from avcompress.spec import Array, Track
from avcompress.state import step_key
from avcompress.steps import Steps
from avcompress.trial import Trial
from calibration.preprocess import preprocess
from engines.build import Built, build_engine
from engines.layer_times import LayerTime, LayerTimes, Timing
from engines.layer_times.measure import time_layers
from engines.network import network_inputs
from validation.machine import processors, runtime_versions

RESULT = "layers.json"
TIMING = Timing(warmup=3, runs=20)
"""Enough for a median of each layer; the deadline is held against another measurement."""


def measure_layers(steps: Steps, trial: Trial, network: Path, built: Built, engine: Engine) -> LayerTimes:
    """Time an engine layer by layer on one validation image; `network` is the ONNX that it was built from."""

    def compute(folder: Path, track: Track) -> None:  # noqa: ARG001
        times = time_layers(built.folder, engine, network, _inputs(trial, network), TIMING)
        write_atomically(folder / RESULT, json.dumps(asdict(times)))

    files = {file: sha256_file(built.folder / file) for file in built.files}
    parts = (files, engine.model_dump(), trial.preprocess.model_dump(), trial.source.fingerprint, asdict(TIMING))
    title = f"time by layer, {engine.backend}"
    key = step_key("layers", parts, runtime_versions(), processors())
    folder = steps.take(f"layers-{engine.backend}", title, key, compute, True)
    return _read(folder / RESULT)


def measure_float_layers(steps: Steps, trial: Trial, network: Path, engine: Engine) -> LayerTimes:
    """The same of a float network, on an engine that is built for the measurement alone."""

    def compute(folder: Path, track: Track) -> None:
        with private_folder() as place:
            built = build_engine(network, place / engine.backend, engine, track)
            times = time_layers(built.folder, engine, network, _inputs(trial, network), TIMING)
        write_atomically(folder / RESULT, json.dumps(asdict(times)))

    settings = (engine.model_dump(), trial.preprocess.model_dump(), trial.source.fingerprint, asdict(TIMING))
    key = step_key("float layers", sha256_file(network), settings, runtime_versions(), processors())
    title = f"time by layer, float network, {engine.backend}"
    return _read(steps.take(f"float-layers-{engine.backend}", title, key, compute, True) / RESULT)


def _inputs(trial: Trial, network: Path) -> dict[str, Array]:
    """The first validation image, as the network takes it."""
    name = next(iter(network_inputs(onnx.load(network, load_external_data=False))))
    return {name: preprocess(next(iter(trial.source)).image, trial.preprocess)[0]}


def _read(path: Path) -> LayerTimes:
    facts = json.loads(path.read_text())
    layers = tuple(LayerTime(**layer | {"fused": tuple(layer["fused"])}) for layer in facts["layers"])
    return LayerTimes(**facts | {"layers": layers})
