"""What each layer takes in an engine that tells it; a step."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import onnx

from avcompress.files import sha256_file, write_atomically
from avcompress.recipe import Engine
from avcompress.spec import Track
from avcompress.state import step_key
from avcompress.steps import Steps
from avcompress.trial import Trial
from calibration.preprocess import preprocess
from engines.build import Built
from engines.layer_times import LayerTime, LayerTimes, Timing
from engines.layer_times.measure import time_layers
from engines.network import network_inputs
from validation.machine import runtime_versions

RESULT = "layers.json"
TIMING = Timing(warmup=3, runs=20)
"""Enough for a median of each layer; the deadline is held against another measurement."""


def measure_layers(steps: Steps, trial: Trial, network: Path, built: Built, engine: Engine) -> LayerTimes:
    """Time an engine layer by layer on one validation image; `network` is the ONNX that it was built from."""

    def compute(folder: Path, track: Track) -> None:  # noqa: ARG001
        name = next(iter(network_inputs(onnx.load(network, load_external_data=False))))
        inputs = {name: preprocess(next(iter(trial.source)).image, trial.preprocess)[0]}
        times = time_layers(built.folder, engine, network, inputs, TIMING)
        write_atomically(folder / RESULT, json.dumps(asdict(times)))

    files = {file: sha256_file(built.folder / file) for file in built.files}
    parts = (files, engine.model_dump(), trial.preprocess.model_dump(), trial.source.fingerprint, asdict(TIMING))
    title = f"time by layer, {engine.backend}"
    folder = steps.take(f"layers-{engine.backend}", title, step_key("layers", parts, runtime_versions()), compute, True)
    facts = json.loads((folder / RESULT).read_text())
    layers = tuple(LayerTime(**layer | {"fused": tuple(layer["fused"])}) for layer in facts["layers"])
    return LayerTimes(**facts | {"layers": layers})
