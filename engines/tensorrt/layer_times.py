"""Times by layer of a TensorRT engine, by its own profiler.

With a profiler, TensorRT runs layer after layer and waits for each: no CUDA graph, and longer than a run without.
Written by the API of TensorRT 8.5 to 11; not yet run on a device.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from avcompress.spec import Array
from engines.layer_map.layer import BuilderLayer
from engines.layer_times.times import USUAL, Kernel, LayerTimes, Timing, by_layer, mean_run_ms
from engines.tensorrt.session import Package, TrtSession, TrtSettings, open_trt

Layers = tuple[Sequence[BuilderLayer], Collection[str]]
"""The engine's layers, as its layer map has them, and the names of the weighted ONNX nodes."""


def time_trt(
    path: Path,
    settings: TrtSettings,
    package: Package,
    layers: Layers,
    inputs: Mapping[str, Array],
    timing: Timing = USUAL,
) -> LayerTimes:
    """Measure an engine file layer by layer; raises MissingError without a CUDA device, EngineError.

    A layer's nodes are known where the engine was built with profiling verbosity detailed, as ours are.
    """
    with open_trt(path, replace(settings, graphs=False), package) as session:
        return time_session(session, layers, inputs, timing)


def time_session(
    session: TrtSession, layers: Layers, inputs: Mapping[str, Array], timing: Timing = USUAL
) -> LayerTimes:
    """Measure an open engine, which records no CUDA graphs, layer by layer."""
    told: list[list[tuple[str, float]]] = []
    with session.profiled(lambda name, ms: told[-1].append((name, ms))):

        def run() -> None:
            told.append([])
            session.run(inputs)

        for _ in range(timing.warmup):
            run()
        total = mean_run_ms(run, timing.runs)
    steps, weighted = layers
    return by_layer(_kernels(told[timing.warmup :], steps), weighted, total, timing.runs)


def _kernels(runs: Sequence[Sequence[tuple[str, float]]], layers: Sequence[BuilderLayer]) -> list[Kernel]:
    """The layers in the order that they were told in; those that were not told in a run took nothing there."""
    known = {layer.name: layer for layer in layers}
    samples: dict[str, list[float]] = {}
    for index, run in enumerate(runs):
        for name, ms in run:
            samples.setdefault(name, [0.0] * len(runs))[index] += ms
    return [_kernel(name, tuple(taken), known.get(name)) for name, taken in samples.items()]


def _kernel(name: str, samples_ms: tuple[float, ...], layer: BuilderLayer | None) -> Kernel:
    if layer is None:
        return Kernel(name, samples_ms)
    return Kernel(name, samples_ms, layer.kind, layer.inputs[0] if layer.inputs else "", layer.nodes)
