"""The entry: a float ONNX network in, one with cheaper layers out, and what was decided."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import onnx

from avcompress.lowrank.candidates import find_candidates
from avcompress.lowrank.layers import Left, find_layers
from avcompress.lowrank.measured import confirmed, faster_alone
from avcompress.lowrank.moments import measure
from avcompress.lowrank.speedup import reach
from avcompress.lowrank.surgery import apply
from avcompress.lowrank.values import Choice, Factorized, decomposition
from avcompress.lowrank.weighing import weigh
from avcompress.output_error import held_out
from avcompress.recipe_lowrank import Factorize, Speedup
from avcompress.spec import Batch, Track, untracked
from engines.onnx_graph import check, fold_constants, infer_shapes, macs, name_nodes
from engines.turns import Clock

_UNCONFIRMED = "faster alone, but not in the network"
_SPARED = "the speed-up needs it not, or the network is not faster by it"


class Plan(NamedTuple):
    """What is to be done to a network.

    Attributes:
        choices: in graph order.
        left: the layers that stay, and why.
        ms_before, ms_after: of the whole network.
    """

    choices: tuple[Choice, ...]
    left: tuple[Left, ...]
    ms_before: float
    ms_after: float


def factorize(
    network: onnx.ModelProto, settings: Factorize, batches: Iterable[Batch], clock: Clock, track: Track = untracked
) -> Factorized:
    """Take apart the layers that are faster so, by the recipe's methods and ranks; if none is, the network stays.

    Args:
        network: float, with static shapes; it is not changed.
        settings: the recipe's.
        batches: calibration images, as often as they are gone through; not read where `fit` is weight.
        clock: what latency is measured with; see `engine_clock`.
        track: follows the layers.

    Raises RecipeError for a pattern without a layer or a rank that is too large, ModelError for weights and DataError
    for activations that are not finite, and what the clock raises.
    """
    ready = check(infer_shapes(name_nodes(fold_constants(network))))
    made = plan(ready, settings, batches, clock, track)
    changed = apply(ready, [choice.candidate.into for choice in made.choices]) if made.choices else network
    decompositions = tuple(decomposition(choice) for choice in made.choices)
    log = _log(made, settings, sum(macs(ready).values()), sum(macs(infer_shapes(changed)).values()))
    return Factorized(changed, decompositions, made.left, made.ms_before, made.ms_after, log)


def plan(
    network: onnx.ModelProto, settings: Factorize, batches: Iterable[Batch], clock: Clock, track: Track = untracked
) -> Plan:
    """Decide what to take apart, and how, in a network with named nodes, folded constants and stated shapes."""
    layers, left = find_layers(network, settings.layers, settings.exclude)
    seen = measure(network, layers, batches) if settings.fit == "output" and layers else {}
    gains: dict[str, tuple[Choice, ...]] = {}
    reasons = {each.layer: each.reason for each in left}
    for layer in track(layers, len(layers)):
        candidates = find_candidates(layer, seen.get(layer.name), settings)
        found = (
            candidates if isinstance(candidates, str) else faster_alone(network, candidates, clock, settings.min_gain)
        )
        if isinstance(found, str):
            reasons[layer.name] = found
        else:
            gains[layer.name] = found
    chosen, spared = _chosen(network, gains, settings, batches, clock)
    before, after = clock([network, apply(network, [choice.candidate.into for choice in chosen])])
    if not chosen or after >= before:
        chosen, after = (), before
    reasons |= dict.fromkeys(gains.keys() - {choice.layer for choice in chosen}, spared)
    return Plan(chosen, tuple(Left(name, reasons[name]) for name in macs(network) if name in reasons), before, after)


def _chosen(
    network: onnx.ModelProto,
    gains: Mapping[str, tuple[Choice, ...]],
    settings: Factorize,
    batches: Iterable[Batch],
    clock: Clock,
) -> tuple[tuple[Choice, ...], str]:
    """Of what is faster alone, what the whole network is faster with, and why the others are left."""
    if isinstance(settings.rank, Speedup):
        images = list(held_out(network, batches)) if gains and settings.fit == "output" else []
        return reach(network, gains, weigh(network, gains, images), settings.rank.speedup, clock), _SPARED
    return confirmed(network, [choices[0] for choices in gains.values()], clock), _UNCONFIRMED


# --- what to say of it


def _log(made: Plan, settings: Factorize, macs_before: int, macs_after: int) -> tuple[str, ...]:
    every = len(made.choices) + len(made.left)
    reasons = Counter(each.reason.split(":")[0] for each in made.left)
    left = "; left: " + ", ".join(f"{count} x {reason}" for reason, count in reasons.most_common()) if reasons else ""
    where = f" on {settings.backend}" if settings.backend else ""
    if not made.choices:
        return (f"factorize: no layer of {every} gains{where}, the network stays as it is{left}",)
    methods = Counter(choice.candidate.into.method for choice in made.choices)
    kinds = ", ".join(f"{count} by {method}" for method, count in methods.most_common())
    line = (
        f"factorize: {len(made.choices)} of {every} layers ({kinds}), {made.ms_before:.4g} -> {made.ms_after:.4g} ms"
        f"{where}, {macs_before / 1e6:.4g} -> {macs_after / 1e6:.4g} M multiply-accumulates{left}"
    )
    return (line, *_short_of(made, settings))


def _short_of(made: Plan, settings: Factorize) -> Sequence[str]:
    """A line where a speed-up was asked for and is not reached."""
    if not isinstance(settings.rank, Speedup) or made.ms_before >= made.ms_after * settings.rank.speedup:
        return ()
    reached = made.ms_before / made.ms_after
    return (
        f"factorize: expected {settings.rank.speedup:.3g} times as fast, got {reached:.3g}; allow a larger max_error, "
        "or prune first",
    )
