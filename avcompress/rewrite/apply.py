"""Rule after rule, each one kept where the whole network is measured to be faster by it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import onnx

from avcompress.recipe_rewrite import Rewrite, RuleName
from avcompress.rewrite.enough import Moved, enough
from avcompress.rewrite.rules import RULES
from avcompress.rewrite.values import Allowed, Change
from avcompress.spec import Track, untracked
from engines.onnx_graph import check, fold_constants, infer_shapes, name_nodes
from engines.turns import Clock


@dataclass(frozen=True, eq=False)
class Tried:
    """What a rule does to a network.

    Attributes:
        rule: its name in recipes.
        nodes: those that it rewrites, by name; none where the network has nothing of the kind, or needs it not.
        before: the network that it was given.
        after: what it makes of it.
        factors: by tensor, what it has been multiplied by in `after`; of others 1.
        before_ms, after_ms: what both take, measured in turns; 0 where there is nothing to rewrite.
        kept: whether that is so much faster that the network goes on with it.
    """

    rule: RuleName
    nodes: tuple[str, ...]
    before: onnx.ModelProto
    after: onnx.ModelProto
    factors: Mapping[str, float] = field(default_factory=dict)
    before_ms: float = 0.0
    after_ms: float = 0.0
    kept: bool = False


@dataclass(frozen=True, eq=False)
class Means:
    """What it takes to choose.

    Attributes:
        allowed: which nodes may be rewritten, by name.
        clock: measures whole networks.
        moved: of a network, how far others' answers are from its own.
        track: follows what takes long.
    """

    allowed: Allowed
    clock: Clock
    moved: Callable[[onnx.ModelProto], Moved]
    track: Track = untracked


def rewrite(network: onnx.ModelProto, stage: Rewrite, means: Means) -> tuple[Tried, ...]:
    """Try a stage's rules in the order of RULES, each on what the one before it has left.

    Args:
        network: float, with static shapes; it is not changed.
        stage: the recipe's.
        means: to measure with.

    Raises what they raise.
    """
    first = now = check(infer_shapes(name_nodes(fold_constants(network))))
    done: list[Tried] = []
    for rule in (rule for rule in RULES if rule in stage.rules):
        change = _changed(rule, first, now, stage, means)
        after = check(infer_shapes(change.network)) if change.nodes else now
        tried = Tried(rule, change.nodes, now, after)
        if change.nodes:
            before_ms, after_ms = means.clock([now, after])
            # Of what a speed-up needs every part counts, however little it gains.
            least = 0.0 if rule == "hard_swish" and stage.speedup is not None else stage.min_gain
            kept = after_ms < before_ms and after_ms <= (1 - least) * before_ms
            tried = Tried(rule, change.nodes, now, after, change.factors, before_ms, after_ms, kept)
        done.append(tried)
        now = after if tried.kept else now
    return tuple(done)


def _changed(rule: RuleName, first: onnx.ModelProto, now: onnx.ModelProto, stage: Rewrite, means: Means) -> Change:
    """What a rule makes of the network as it is now, `first` as it was before the first rule."""
    if rule != "hard_swish" or stage.speedup is None:
        return RULES[rule](now, means.allowed)
    before, after = means.clock([first, now])
    return enough(now, means.allowed, stage.speedup * after / before, means.clock, means.moved(now), means.track)
