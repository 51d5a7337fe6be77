"""Times by layer on OpenVINO: the performance counters of a second compiled network, beside the one that is served.

A counter is the mean of a step since the network was compiled, in whole microseconds. So the network is compiled five
times: what the warm-up took is subtracted from each, which leaves five means over the runs that count; the median is
that of these means.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import onnx

from avcompress.recipe import OpenVinoEngine
from avcompress.spec import Array, EngineError
from engines.layer_map.layer import BuilderLayer
from engines.layer_times.times import USUAL, Kernel, LayerTimes, Timing, by_layer, mean_run_ms
from engines.network import weighted_nodes
from engines.openvino import compile_file, onnx_name, runtime_layers
from engines.session import one_line

_ROUNDS = 5


def time_openvino(
    path: Path,
    settings: OpenVinoEngine,
    network: onnx.ModelProto,
    inputs: Mapping[str, Array],
    timing: Timing = USUAL,
) -> LayerTimes:
    """Measure an engine, model.xml, layer by layer.

    Args:
        path: of the engine.
        settings: that it runs with.
        network: the ONNX network that it was built from, for the names of its nodes.
        inputs: of every run.
        timing: `runs` are shared out over the five compilations, at least one each.

    Raises EngineError, MissingError.
    """
    timing = Timing(timing.warmup, -(-timing.runs // _ROUNDS))
    rounds = [_round(path, settings, inputs, timing) for _ in range(_ROUNDS)]
    steps = {layer.name: layer for layer in rounds[-1].steps}
    # A step that is missing from a round was not executed there.
    names = [name for name in rounds[-1].means_ms if all(name in each.means_ms for each in rounds)]
    nodes = _Nodes(network)
    kernels = [_kernel(name, tuple(each.means_ms[name] for each in rounds), steps.get(name), nodes) for name in names]
    total = statistics.fmean(each.total_ms for each in rounds)
    note = f"means of {_ROUNDS} compilations, {timing.runs} runs each; the median is that of the means"
    return by_layer(kernels, weighted_nodes(network), total, timing.runs * _ROUNDS, note)


class _Nodes:
    """The nodes of a network by the names that OpenVINO gives them."""

    def __init__(self, network: onnx.ModelProto) -> None:
        makers = {name: node.name for node in network.graph.node for name in node.output}
        self._of_outputs = {value.name: makers[value.name] for value in network.graph.output if value.name in makers}
        self._names = {node.name for node in network.graph.node if node.name}

    def among(self, told: tuple[str, ...]) -> tuple[str, ...]:
        """The ONNX nodes among these names, each once; what OpenVINO added is none."""
        plain = (self._of_outputs.get(name, name) for name in map(onnx_name, told))
        return tuple(dict.fromkeys(name for name in plain if name in self._names))


def _kernel(name: str, means_ms: tuple[float, ...], step: BuilderLayer | None, nodes: _Nodes) -> Kernel:
    if step is None:
        return Kernel(name, means_ms)
    return Kernel(name, means_ms, step.kind, step.inputs[0], nodes.among(step.nodes))


class _Round(NamedTuple):
    """One compilation: the mean of a run and of every executed step after the warm-up, in ms, and what steps are."""

    total_ms: float
    means_ms: Mapping[str, float]
    steps: tuple[BuilderLayer, ...]


def _round(path: Path, settings: OpenVinoEngine, inputs: Mapping[str, Array], timing: Timing) -> _Round:
    # Nothing of it outlives the round: see `by_openvino` for the order in which OpenVINO's networks may be released.
    compiled = compile_file(path, settings, profiled=True)
    request = compiled.create_infer_request()

    def run() -> None:
        request.infer(dict(inputs), share_inputs=True, share_outputs=True)

    try:
        for _ in range(timing.warmup):
            run()
        before = _counters(request) if timing.warmup else {}
        total = mean_run_ms(run, timing.runs)
    except Exception as error:  # OpenVINO's errors share no base but this
        raise EngineError(f"openvino: expected a run, got: {one_line(error)}; check the inputs") from error
    after = _counters(request)
    every = timing.warmup + timing.runs
    means = {
        name: max(0.0, (mean * every - before.get(name, 0.0) * timing.warmup) / timing.runs)
        for name, mean in after.items()
    }
    return _Round(total, means, runtime_layers(compiled))


def _counters(request: Any) -> dict[str, float]:
    """Mean ms of every executed step since the network was compiled."""
    return {
        step.node_name: step.real_time.total_seconds() * 1000
        for step in request.get_profiling_info()
        if step.status.name == "EXECUTED"
    }
