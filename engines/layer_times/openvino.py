"""Times by layer on OpenVINO: the performance counters of a second compiled network, beside the one that is served.

A counter is the mean of a step since the network was compiled, in whole microseconds. So the network is compiled five
times: what the warm-up took is subtracted from each, which leaves five means over the runs that count; the median is
that of these means.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx

from avcompress.recipe import OpenVinoEngine
from avcompress.spec import Array, EngineError
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
    names = {name: node.name for node in network.graph.node for name in node.output}
    outputs = {value.name: names[value.name] for value in network.graph.output if value.name in names}
    known = {node.name for node in network.graph.node if node.name}
    totals: list[float] = []
    samples: dict[str, list[float]] = {}
    for _ in range(_ROUNDS):
        compiled = compile_file(path, settings, profiled=True)
        total, means = _round(compiled, inputs, timing)
        totals.append(total)
        for step, mean in means.items():
            samples.setdefault(step, []).append(mean)
    steps = {layer.name: layer for layer in runtime_layers(compiled)}
    kernels = [
        Kernel(
            name,
            tuple(means),
            steps[name].kind if name in steps else "",
            steps[name].inputs[0] if name in steps else "",
            _nodes(steps[name].nodes, outputs, known) if name in steps else (),
        )
        for name, means in samples.items()
        if len(means) == _ROUNDS
    ]
    note = f"means of {_ROUNDS} compilations, {timing.runs} runs each; the median is that of the means"
    return by_layer(kernels, weighted_nodes(network), statistics.fmean(totals), timing.runs * _ROUNDS, note)


def _nodes(told: tuple[str, ...], outputs: Mapping[str, str], known: set[str]) -> tuple[str, ...]:
    """The ONNX nodes among the names that OpenVINO gives a step."""
    plain = (outputs.get(name, name) for name in map(onnx_name, told))
    return tuple(dict.fromkeys(name for name in plain if name in known))


def _round(compiled: Any, inputs: Mapping[str, Array], timing: Timing) -> tuple[float, dict[str, float]]:
    """The mean of the runs after the warm-up, of the whole and of every step that was executed, in ms."""
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
    return total, {
        name: max(0.0, (mean * every - before.get(name, 0.0) * timing.warmup) / timing.runs)
        for name, mean in after.items()
    }


def _counters(request: Any) -> dict[str, float]:
    """Mean ms of every executed step since the network was compiled."""
    return {
        step.node_name: step.real_time.total_seconds() * 1000
        for step in request.get_profiling_info()
        if step.status.name == "EXECUTED"
    }
