"""An Artifact on disk: the network as ONNX or as safetensors, and what was decided about it as JSON; no pickle."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import onnx

from avcompress.files import sha256_file, write_atomically
from avcompress.spec import Artifact, LayerPlan, QuantParams

NETWORK = "model.onnx"
REFERENCE = "reference.onnx"
TRAINED = "trained.onnx"
DECISIONS = "artifact.json"


def save_artifact(artifact: Artifact, folder: Path) -> None:
    """Write an Artifact whose model is an onnx.ModelProto."""
    write_atomically(folder / NETWORK, artifact.model.SerializeToString(deterministic=True))
    for name, network in ((REFERENCE, artifact.reference), (TRAINED, artifact.trained)):
        if network is not None:
            write_atomically(folder / name, network.SerializeToString(deterministic=True))
    save_decisions(artifact, folder)


def load_artifact(folder: Path) -> Artifact:
    """Read what save_artifact wrote."""
    artifact = load_decisions(folder, onnx.load(folder / NETWORK))
    reference, trained = (onnx.load(path) if path.exists() else None for path in (folder / REFERENCE, folder / TRAINED))
    return replace(artifact, reference=reference, trained=trained)


def save_decisions(artifact: Artifact, folder: Path) -> None:
    """Write all of an Artifact but its model."""
    facts = {
        "qparams": {name: asdict(params) for name, params in artifact.qparams.items()},
        "layers": [asdict(layer) for layer in artifact.layers],
        "log": artifact.log,
        "sparse": dict(artifact.sparse),
    }
    write_atomically(folder / DECISIONS, json.dumps(facts, indent=1))


def load_decisions(folder: Path, model: Any) -> Artifact:
    """Read what save_decisions wrote, around `model`."""
    facts = json.loads((folder / DECISIONS).read_text())
    qparams = {
        name: QuantParams(tuple(p["scale"]), tuple(p["zero_point"]), p["dtype"], p["axis"], p["block_size"])
        for name, p in facts["qparams"].items()
    }
    layers = tuple(LayerPlan(**layer) for layer in facts["layers"])
    return Artifact(model, qparams, layers, tuple(facts["log"]), sparse=facts.get("sparse", {}))


def artifact_files(folder: Path) -> list[str]:
    """What a step reads of the one before."""
    return [sha256_file(folder / name) for name in (NETWORK, REFERENCE, TRAINED, DECISIONS) if (folder / name).exists()]
