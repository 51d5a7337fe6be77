"""Times by layer on ONNX Runtime: its profile, a JSON file of events."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import onnx

from avcompress.recipe import OrtEngine
from avcompress.spec import Array, EngineError
from engines.layer_times.times import USUAL, Kernel, LayerTimes, Timing, by_layer, mean_run_ms
from engines.network import weighted_nodes
from engines.ort import open_ort

_KERNEL = "_kernel_time"
# What ONNX Runtime's optimizers append to the name of a node, or of its output, that they rewrite.
_SUFFIX = re.compile(r"(_nchwc|_quant|_token_\d+|/duplicated|/\w+Fusion/)+$")


def time_ort(
    path: Path,
    settings: OrtEngine,
    network: onnx.ModelProto,
    inputs: Mapping[str, Array],
    timing: Timing = USUAL,
) -> LayerTimes:
    """Measure a network, model.onnx, operator by operator; see `time_openvino`.

    With graph optimizations on, an operator that was fused is named where ONNX Runtime keeps the name, and what was
    fused into it is not told.
    """
    with tempfile.TemporaryDirectory() as folder:
        profile = Path(folder) / "profile"
        with open_ort(path, settings.optimize, settings.threads, settings.providers, profile) as session:
            for _ in range(timing.warmup):
                session.run(inputs)
            total = mean_run_ms(lambda: session.run(inputs), timing.runs)
            text = session.end_profile().read_text(encoding="utf-8")
    kernels = parse_profile(text, network, timing.warmup)
    return by_layer(kernels, weighted_nodes(network), total, timing.runs)


class _Event(NamedTuple):
    name: str
    start_us: int
    end_us: int
    kind: str
    precision: str


def parse_profile(text: str, network: onnx.ModelProto, warmup: int = 0) -> tuple[Kernel, ...]:
    """Read what ONNX Runtime's profiler wrote: each operator of the main graph with one sample for each run.

    Args:
        text: JSON.
        network: whose nodes are named; an operator of any other name stands for itself.
        warmup: runs at the beginning that are left out.

    Raises EngineError for anything else.
    """
    try:
        events = json.loads(text)
        if not isinstance(events, list):
            raise TypeError("no list of events")
        runs = [_event(event) for event in events if event.get("name") == "model_run"][warmup:]
        steps = [_event(event) for event in events if str(event.get("name", "")).endswith(_KERNEL)]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise EngineError(
            f"layer times: expected a profile of ONNX Runtime, JSON, got something else ({error}); run it again"
        ) from error
    samples: dict[str, list[float]] = {}
    facts: dict[str, _Event] = {}
    for index, run in enumerate(runs):
        for step in _within(steps, run):
            facts.setdefault(step.name, step)
            taken = samples.setdefault(step.name, [0.0] * len(runs))
            taken[index] += (step.end_us - step.start_us) / 1000
    nodes = _Nodes(network)
    return tuple(
        Kernel(name, tuple(taken), facts[name].kind, facts[name].precision, nodes.of(name))
        for name, taken in samples.items()
    )


def _event(event: Mapping[str, Any]) -> _Event:
    args = event.get("args", {})
    types = args.get("input_type_shape") or [{}]
    start = int(event["ts"])
    name = str(event["name"]).removesuffix(_KERNEL) or f"{args.get('op_name')}_{args.get('node_index')}"
    return _Event(name, start, start + int(event["dur"]), str(args.get("op_name", "")), next(iter(types[0]), ""))


def _within(steps: Iterable[_Event], run: _Event) -> Iterator[_Event]:
    """The steps of one run, without those inside another: a loop's time holds its body's."""
    end = -1
    for step in sorted(steps, key=lambda step: (step.start_us, -step.end_us)):
        inside = run.start_us <= step.start_us and step.end_us <= run.end_us
        if inside and step.end_us > end:
            end = max(end, step.end_us)
            yield step


class _Nodes:
    """The nodes of a network by their names, and by the tensors they make."""

    def __init__(self, network: onnx.ModelProto) -> None:
        self._makers = {name: node.name for node in network.graph.node for name in node.output if node.name}
        self._names = set(self._makers.values())

    def of(self, name: str) -> tuple[str, ...]:
        """The node that an operator of this name comes from, if that is clear."""
        if name in self._names:
            return (name,)
        plain = _SUFFIX.sub("", name)
        found = plain if plain in self._names else self._makers.get(plain) if plain != name else None
        return (found,) if found else ()
