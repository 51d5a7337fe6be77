"""Measuring the table: the network at several widths, each one built and timed, node by node and as a whole."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx

from avcompress.prune.groups import Coupling, Removed
from avcompress.prune.latency.table import Design, LatencyTable
from avcompress.prune.latency.widths import Counts, counts_of
from avcompress.prune.slicing import without
from avcompress.recipe import Engine
from avcompress.spec import Track, untracked
from engines.layer_times import LayerTimes, Timing
from engines.layer_times.measure import time_layers
from engines.turns import ENGINE, NETWORK, Turns, built, engine_clock, engines_ms, random_inputs
from validation.machine import describe_machine, runtime_versions

DESIGNS = 20
_TIMING = Timing(warmup=3, runs=15)
_TURNS = Turns(seconds=4.0)
_SEED = 0


def measure_table(
    network: onnx.ModelProto, coupling: Coupling, engine: Engine, steps: Mapping[str, int], track: Track = untracked
) -> LatencyTable:
    """Time a network at `DESIGNS` sets of widths, the first as it is.

    Widths are drawn at random, group by group, from multiples of its `steps`: so each layer is seen at many pairs of
    input and output widths, in its place between its neighbours. Importance plays no part: what is left does not change
    times.
    Raises EngineError, MissingError where the backend cannot run here.
    """
    drawn = designs(coupling, steps)
    networks = [without(network, coupling, removed) for removed in drawn]
    inputs = random_inputs(network)
    with tempfile.TemporaryDirectory() as folder:
        folders = [built(each, Path(folder) / str(index), engine) for index, each in enumerate(networks)]
        times = [
            time_layers(place / ENGINE, engine, place / NETWORK, inputs, _TIMING)
            for place in track(folders, len(folders))
        ]
        totals = engines_ms([place / ENGINE for place in folders], engine, [inputs] * len(folders), _TURNS)
    return LatencyTable(
        network=structure_digest(network),
        groups=tuple((group.name, len(group.channels)) for group in coupling.groups),
        backend=engine.backend,
        machine=describe_machine().cpu,
        versions=runtime_versions(),
        designs=tuple(
            _design(counts_of(coupling, removed), found, total)
            for removed, found, total in zip(drawn, times, totals, strict=True)
        ),
    )


def latencies_ms(networks: Sequence[onnx.ModelProto], engine: Engine, seconds: float = 4.0) -> tuple[float, ...]:
    """Several networks' latencies on one backend, in turns for so long each."""
    return engine_clock(engine, replace(_TURNS, seconds=seconds))(networks)


def designs(coupling: Coupling, steps: Mapping[str, int], count: int = DESIGNS) -> list[Removed]:
    """Sets of channels to remove: none, then random multiples of steps; the same for the same coupling."""
    random = np.random.default_rng(_SEED)
    drawn: list[Removed] = [{}]
    for _ in range(1, count):
        least = random.uniform(0.05, 0.8)  # narrow networks and wide ones, not all of a middle width
        removed = {}
        for group in coupling.groups:
            width, step = len(group.channels), steps[group.name]
            kept = [w for w in range(step, width, step) if w >= least * width] + [width]
            chosen = int(random.choice(kept))
            if chosen < width:
                removed[group.name] = tuple(range(chosen, width))
        drawn.append(removed)
    return drawn


def structure_digest(network: onnx.ModelProto) -> str:
    """The sha256 of a network without the values of its weights: what latency depends on."""
    bare = onnx.ModelProto()
    bare.graph.node.extend(network.graph.node)
    bare.graph.input.extend(network.graph.input)
    sizes = [(item.name, tuple(item.dims)) for item in network.graph.initializer]
    return hashlib.sha256(bare.SerializeToString(deterministic=True) + repr(sizes).encode()).hexdigest()


def _design(counts: Counts, times: LayerTimes, total_ms: float) -> Design:
    return Design(
        removed=tuple(counts.tolist()),
        layers_ms={layer.layer: layer.median_ms for layer in times.layers if layer.own},
        others_ms=sum(layer.median_ms for layer in times.layers if not layer.own),
        total_ms=total_ms,
    )
