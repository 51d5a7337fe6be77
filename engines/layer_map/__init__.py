"""Which precision every weighted ONNX node really runs in, read from an engine, and held against the plan.

An engine tells its layers in two ways: TensorRT's builder prints them at profiling verbosity DETAILED, which needs no
GPU, and an engine inspector lists them where the engine can be loaded. Both become BuilderLayers, and are judged alike.
A layer that was fused horizontally may lose the names of its nodes: they are `unknown`, and unknown never passes.
"""

from engines.layer_map.builder_log import parse_layers
from engines.layer_map.counts import Counts, count_layers
from engines.layer_map.file import layers_json, read_counts
from engines.layer_map.inspector import parse_inspector
from engines.layer_map.layer import PRECISIONS, UNKNOWN, BuilderLayer
from engines.layer_map.plan import Mismatch, as_planned, compare
from engines.layer_map.precision import layer_precisions

__all__ = [
    "PRECISIONS",
    "UNKNOWN",
    "BuilderLayer",
    "Counts",
    "Mismatch",
    "as_planned",
    "compare",
    "count_layers",
    "layer_precisions",
    "layers_json",
    "parse_inspector",
    "parse_layers",
    "read_counts",
]
