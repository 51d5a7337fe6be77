"""Of the activations that can be hard, those that a speed-up needs: first those that cost least for what they save."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx

from avcompress.rewrite.hard_swish import hard_swish
from avcompress.rewrite.values import Allowed, Change
from avcompress.spec import Track, untracked
from engines.onnx_graph import shapes
from engines.turns import Clock

Moved = Callable[[onnx.ModelProto], float]
"""How far a network's answers are from those of the network as it is."""


def enough(
    network: onnx.ModelProto,
    allowed: Allowed,
    wanted: float,
    clock: Clock,
    moved: Moved,
    track: Track = untracked,
) -> Change:
    """Replace as few SiLUs by HardSwish as make the network so many times as fast, or all where that is not enough.

    Each one's cost is what the answers move by it alone, its gain the number of its values: all of them are computed by
    the same kernels. How many it takes, in the order of cost by gain, is found by bisection, measuring.

    Args:
        network: as a rule takes it.
        allowed: which multiplications, by name.
        wanted: how many times as fast the network is to be; nothing is replaced for 1.
        clock: measures whole networks.
        moved: measures networks that have another activation.
        track: follows the activations.
    """
    whole = hard_swish(network, allowed)
    if not whole.nodes or wanted <= 1:
        return Change(network, ())

    def is_enough(change: Change) -> bool:
        before, after = clock([network, change.network])
        return after * wanted <= before

    if not is_enough(whole):
        return whole
    counts = _values(network, whole.nodes)
    cost = {name: moved(_only(network, {name}).network) for name in track(whole.nodes, len(whole.nodes))}
    order = sorted(whole.nodes, key=lambda name: (cost[name] / counts[name], name))
    few, many = 0, len(order)  # not enough, enough
    while many - few > 1:
        middle = (few + many) // 2
        if is_enough(_only(network, set(order[:middle]))):
            many = middle
        else:
            few = middle
    return _only(network, set(order[:many]))


def _only(network: onnx.ModelProto, names: set[str]) -> Change:
    return hard_swish(network, names.__contains__)


def _values(network: onnx.ModelProto, names: Sequence[str]) -> Mapping[str, float]:
    """How many values each activation has."""
    known, outputs = shapes(network), {node.name: node.output[0] for node in network.graph.node}
    return {name: float(np.prod(known.get(outputs[name], (1,)))) for name in names}
