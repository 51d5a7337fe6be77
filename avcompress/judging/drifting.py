"""How far the layers of one network are from those of another, on a trial's images; a step."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import onnx

from avcompress.files import sha256_file, write_atomically
from avcompress.spec import Track
from avcompress.state import step_key
from avcompress.steps import Steps
from avcompress.trial import Trial
from calibration.batches import Batches, spread
from engines.network import network_inputs
from validation.drift import LayerDrift, compare_layers
from validation.machine import runtime_versions

IMAGES = 8
"""Each holds every activation of every layer many times over: more change the dB by little."""
RESULT = "drift.json"
QDQ = frozenset({"QuantizeLinear", "DequantizeLinear"})


Network = Path | onnx.ModelProto


def measure_drift(steps: Steps, trial: Trial, reference: Network, network: Network) -> tuple[LayerDrift, ...]:
    """The tensors that both ONNX networks compute, on validation images spread over the set, in the graph's order."""
    images = min(IMAGES, len(trial.source))

    def compute(folder: Path, track: Track) -> None:
        model = onnx.load(reference, load_external_data=False) if isinstance(reference, Path) else reference
        batches = Batches(trial.source, trial.preprocess, next(iter(network_inputs(model))), track)
        found = compare_layers(reference, network, spread(batches, images))
        # Of two quantized networks: what a changed scale does shows in the layer that reads it, which has a name.
        between = {name for node in model.graph.node if node.op_type in QDQ for name in node.output}
        drifts = [asdict(drift) for drift in found if drift.tensor not in between]
        write_atomically(folder / RESULT, json.dumps(drifts))

    parts = (_digest(reference), _digest(network), trial.preprocess.model_dump(), trial.source.fingerprint)
    key = step_key("drift", parts, images, runtime_versions())
    folder = steps.take("drift", f"error by layer ({images} images)", key, compute)
    return tuple(LayerDrift(**drift) for drift in json.loads((folder / RESULT).read_text()))


def _digest(network: Network) -> str:
    if isinstance(network, Path):
        return sha256_file(network)
    return hashlib.sha256(network.SerializeToString(deterministic=True)).hexdigest()
