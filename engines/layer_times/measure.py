"""Times by layer behind one verb, whatever the backend."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from typing_extensions import assert_never

from avcompress.recipe import Engine, OpenVinoEngine, OrtEngine, RtxEngine, TrtEngine
from avcompress.spec import Array
from engines.build import require
from engines.built import LAYERS, MODEL
from engines.layer_map.file import read_layers
from engines.layer_times.openvino import time_openvino
from engines.layer_times.ort import time_ort
from engines.layer_times.times import USUAL, LayerTimes, Timing
from engines.network import read_network, weighted_nodes
from engines.tensorrt.layer_times import time_trt
from engines.tensorrt.session import Package, TrtSettings


def time_layers(
    built_folder: Path, engine: Engine, onnx: Path, inputs: Mapping[str, Array], timing: Timing = USUAL
) -> LayerTimes:
    """Measure what `build_engine` built, layer by layer, apart from the engine that is served.

    Args:
        built_folder: of the engine.
        engine: its settings.
        onnx: the network that it was built from, for the names of its nodes.
        inputs: of every run.
        timing: how many runs.

    Raises MissingError for an engine that this machine cannot run, EngineError when it does not load or run.
    """
    require(engine)
    network = read_network(onnx)
    path = built_folder / MODEL[engine.backend]
    match engine:
        case OrtEngine():
            return time_ort(path, engine, network, inputs, timing)
        case OpenVinoEngine():
            return time_openvino(path, engine, network, inputs, timing)
        case TrtEngine() | RtxEngine():
            package: Package = "tensorrt" if isinstance(engine, TrtEngine) else "tensorrt_rtx"
            settings = TrtSettings(dla_core=engine.dla if isinstance(engine, TrtEngine) else None)
            layers = read_layers(built_folder / LAYERS)
            return time_trt(path, settings, package, (layers, weighted_nodes(network)), inputs, timing)
        case _:
            assert_never(engine)
