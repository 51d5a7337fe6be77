"""A network as a plain checkpoint: its structure as JSON, its weights as safetensors; no pickle, no Python class."""

from __future__ import annotations

from pathlib import Path

import onnx


def save_structure(network: onnx.ModelProto, folder: Path) -> None:
    """Write structure.json, the graph without its weights, and weights.safetensors."""
    raise NotImplementedError


def load_structure(folder: Path) -> onnx.ModelProto:
    """Read what save_structure wrote; import_onnx makes a network of it that can be trained.

    Raises ModelError for files that are not those of save_structure, or weights of another structure.
    """
    raise NotImplementedError
