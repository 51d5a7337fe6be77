"""How far the layers of one network are from those of another, on a trial's images; a step."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from glob import escape
from pathlib import Path

import onnx

from avcompress.files import sha256_file, write_atomically
from avcompress.spec import Track
from avcompress.state import step_key
from avcompress.steps import Steps
from avcompress.trial import Trial
from calibration.batches import Batches, spread
from engines.activations import activation_nodes
from engines.network import network_inputs
from engines.onnx_graph import infer_shapes, shapes
from validation.drift import LayerDrift, compare_layers
from validation.machine import runtime_versions

IMAGES = 8
"""Each holds every activation of every layer many times over: more change the dB by little."""
RESULT = "drift.json"
QDQ = frozenset({"QuantizeLinear", "DequantizeLinear"})


Network = Path | onnx.ModelProto


def measure_drift(
    steps: Steps, trial: Trial, reference: Network, network: Network, layers: Sequence[str] = ("*",)
) -> tuple[LayerDrift, ...]:
    """The tensors that both ONNX networks compute, on validation images spread over the set, in the graph's order.

    `layers`: names of the reference's nodes, or fnmatch patterns of some.
    """
    images = min(IMAGES, len(trial.source))

    def compute(folder: Path, track: Track) -> None:
        model = onnx.load(reference, load_external_data=False) if isinstance(reference, Path) else reference
        batches = Batches(trial.source, trial.preprocess, next(iter(network_inputs(model))), track)
        found = compare_layers(reference, network, spread(batches, images), layers)
        # Of two quantized networks: what a changed scale does shows in the layer that reads it, which has a name.
        between = {name for node in model.graph.node if node.op_type in QDQ for name in node.output}
        drifts = [asdict(drift) for drift in found if drift.tensor not in between]
        write_atomically(folder / RESULT, json.dumps(drifts))

    parts = (_digest(reference), _digest(network), trial.preprocess.model_dump(), trial.source.fingerprint)
    key = step_key("drift", parts, images, list(layers), runtime_versions())
    folder = steps.take("drift", f"error by layer ({images} images)", key, compute)
    return tuple(LayerDrift(**drift) for drift in json.loads((folder / RESULT).read_text()))


def alike(reference: Path, network: Path) -> tuple[list[str], int]:
    """The nodes whose outputs have the same shape in both networks, as patterns; and how many have not.

    What becomes narrower, or another layer, cannot be held against what it was.
    """
    models = [infer_shapes(onnx.load(path)) for path in (reference, network)]
    before, after = (shapes(model) for model in models)
    common = {tensor: node for tensor, node in activation_nodes(models[0]).items() if tensor in after}
    same = [escape(node) for tensor, node in common.items() if before.get(tensor) == after[tensor]]
    return same, len(activation_nodes(models[0])) - len(same)


def _digest(network: Network) -> str:
    if isinstance(network, Path):
        return sha256_file(network)
    return hashlib.sha256(network.SerializeToString(deterministic=True)).hexdigest()
