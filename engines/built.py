"""What a backend hands back when it has built an engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

MODEL = {"ort": "model.onnx", "openvino": "model.xml", "trt_rtx": "model.engine", "trt": "model.engine"}
"""The file that holds the engine, by backend."""
LAYERS = "layers.json"
"""The file that holds the layer map, where the backend gives one."""


@dataclass(frozen=True)
class Built:
    """An engine on disk.

    Attributes:
        files: names relative to `folder`.
        seconds: what the build took.
        size_bytes: of the engine alone: model.onnx, model.xml + model.bin, or model.engine.
        precisions: what every weighted ONNX node computes in, by name; None where the backend does not say.
        runs_here: whether `open_engine` can run it on this machine.
        versions: of the packages that built it.
        note: one line for people: what the build proves, and what it does not.
        notes: more lines for people: what was done otherwise than asked, or left out.
        dialect: how the network told TensorRT its precisions; None for other backends.
        flags: of TensorRT's builder.
        told: what single nodes were told to compute in, apart from the graph: int8, fp16 or fp32.
    """

    backend: str
    folder: Path
    files: tuple[str, ...]
    seconds: float
    size_bytes: int
    precisions: Mapping[str, str] | None
    runs_here: bool
    versions: Mapping[str, str]
    note: str
    notes: tuple[str, ...] = ()
    dialect: str | None = None
    flags: tuple[str, ...] = ()
    told: Mapping[str, str] = field(default_factory=dict)
