"""Times by layer in one form for every runtime: ONNX nodes, what each took, and what nobody accounts for."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from avcompress.spec import EngineError


@dataclass(frozen=True)
class Timing:
    """How often a network is run: `warmup` runs do not count."""

    warmup: int = 5
    runs: int = 50


USUAL = Timing()


@dataclass(frozen=True)
class Kernel:
    """One step of a runtime, as it tells it.

    Attributes:
        name: the runtime's own.
        samples_ms: as often as it was measured; the same number for all steps.
        kind: the runtime's word for what it is: Convolution, jit_avx2_I8, Reorder ...
        precision: that it computes in, where the runtime tells.
        nodes: the ONNX nodes in it; () for what the runtime added.
    """

    name: str
    samples_ms: tuple[float, ...]
    kind: str = ""
    precision: str = ""
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True)
class LayerTime:
    """What one layer of the network takes.

    Attributes:
        layer: the ONNX node; the runtime's own name for what it added, such as a change of layout.
        mean_ms, median_ms: over the samples.
        share: of the whole run's mean, 0-1.
        kind: the runtime's word for the step, of the longest where a node has become several.
        precision: that it computes in, as the runtime calls it; "" where it does not tell.
        fused: other ONNX nodes whose time is in this one: they have no line of their own.
        own: whether `layer` is a node of the network.
    """

    layer: str
    mean_ms: float
    median_ms: float
    share: float
    kind: str = ""
    precision: str = ""
    fused: tuple[str, ...] = ()
    own: bool = True


@dataclass(frozen=True)
class LayerTimes:
    """A network's layers in the order of execution.

    Attributes:
        total_ms: mean of the whole run, by the clock, the profiler's own cost with it.
        runs: that counted.
        note: how the figures came about, where that is not plain.
    """

    layers: tuple[LayerTime, ...]
    total_ms: float
    runs: int
    note: str = ""

    @property
    def remainder_ms(self) -> float:
        """What the run takes beyond its layers: calls, copies, waiting; below zero where layers ran side by side."""
        return self.total_ms - sum(layer.mean_ms for layer in self.layers)


def by_layer(
    kernels: Iterable[Kernel], weighted: Collection[str], total_ms: float, runs: int, note: str = ""
) -> LayerTimes:
    """Gather a runtime's steps by ONNX node.

    A step that holds several nodes counts for its weighted node, else for the last of them; what holds none stands for
    itself. Steps of one node are added up, sample by sample.

    Args:
        kernels: in the order of execution.
        weighted: names of the nodes that multiply and accumulate.
        total_ms: mean of the whole run.
        runs: that counted.
        note: see LayerTimes.

    Raises EngineError where the runtime told nothing.
    """
    groups: dict[tuple[str, bool], list[Kernel]] = {}
    for kernel in kernels:
        groups.setdefault((_main(kernel, weighted), bool(kernel.nodes)), []).append(kernel)
    if not groups:
        raise EngineError("layer times: expected the runtime to tell its layers' times, got none; run it again")
    layers = tuple(_layer(name, own, group, total_ms) for (name, own), group in groups.items())
    return LayerTimes(layers, total_ms, runs, note)


def _main(kernel: Kernel, weighted: Collection[str]) -> str:
    if not kernel.nodes:
        return kernel.name
    return next((node for node in kernel.nodes if node in weighted), kernel.nodes[-1])


def _layer(name: str, own: bool, kernels: list[Kernel], total_ms: float) -> LayerTime:
    samples = [sum(parts) for parts in zip(*(kernel.samples_ms for kernel in kernels), strict=True)]
    longest = max(kernels, key=lambda kernel: sum(kernel.samples_ms))
    mean = statistics.fmean(samples)
    return LayerTime(
        layer=name,
        mean_ms=mean,
        median_ms=statistics.median(samples),
        share=mean / total_ms,
        kind=longest.kind,
        precision=longest.precision,
        fused=tuple(dict.fromkeys(node for kernel in kernels for node in kernel.nodes if node != name)),
        own=own,
    )


def mean_run_ms(run: Callable[[], object], runs: int) -> float:
    """Run something so often; what one run takes by the clock, in the mean."""
    start = time.perf_counter()
    for _ in range(runs):
        run()
    return (time.perf_counter() - start) * 1000 / runs
