"""The stage `prune`: which channels go, at once or while the network trains, and the network without them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import onnx

from avcompress.recipe_prune import Prune
from avcompress.running.choosing import Chooser, channel_scores, concerned, made_by
from avcompress.running.training import Growth
from avcompress.spec import Artifact, Track
from engines.onnx_graph import fold_batch_norms, macs, parameters

if TYPE_CHECKING:
    from torch import fx, nn

    from avcompress.prune import Coupling, Removed
    from avcompress.prune.importance import Scores
    from avcompress.prune.selection import Selection
    from avcompress.train import Zeros


def prune(chooser: Chooser[Prune], start: onnx.ModelProto, part: int, artifact: Artifact, track: Track) -> Artifact:
    """The artifact of the network without the channels that go in one part of a stage, counted from 1.

    The stage has its alignment; `start` is the network as it was before the first part. Raises RecipeError for a ratio
    or an alignment that the layers cannot have, ModelError for a network whose channels cannot be told apart.
    """
    from avcompress.prune import channel_groups
    from avcompress.prune.schedule import rounds
    from avcompress.prune.selection import select, to_widths

    coupling = channel_groups(artifact.model)
    free = concerned(coupling, chooser.stage, chooser.where)
    scores = channel_scores(chooser.watched(track), artifact.model, free)
    rule = _rule(chooser.stage, rounds(chooser.stage.ratio or 0.0, chooser.stage.parts)[part - 1])
    if part == 1:
        return _without(artifact, coupling, select(free, scores, rule))
    # Widths are of the network as it was: of what each part leaves they would be rounded again and again.
    first = concerned(channel_groups(start), chooser.stage, chooser.where)
    removed = select(first, _with_gone(scores, first), rule)
    left = {group.name: len(group.channels) - len(removed.get(group.name, ())) for group in first.groups}
    widths = {group.name: min(left[group.name], len(group.channels)) for group in free.groups}
    return _without(artifact, coupling, to_widths(free, scores, widths))


def _with_gone(scores: Scores, first: Coupling) -> Scores:
    """The scores of the network as it was: of channels that are gone 0, which go first."""
    counts = {group.name: len(group.channels) for group in first.groups}
    return {name: np.pad(each, (counts[name] - len(each), 0)) for name, each in scores.items()}


def fading(chooser: Chooser[Prune]) -> Growth:
    """Channels that become zeros while the network trains, from a tenth of its steps on, by a cubic rise, for a half.

    The chooser's model is a graph.
    """
    from avcompress.prune import channel_groups
    from avcompress.prune.growing import growing_channels
    from avcompress.prune.schedule import Rise

    stage, model = chooser.stage, chooser.model
    free = concerned(channel_groups(model.whole(model.artifact.model)), stage, chooser.where)
    rule = _rule(stage, stage.ratio or 0.0)

    def zeros(module: fx.GraphModule, prefix: str, steps: int) -> Zeros:
        def scores_of(trained: nn.Module) -> Scores:
            return channel_scores(chooser, model.whole(trained.get_submodule(prefix.rstrip("."))), free)

        start, end = round(0.1 * steps), round(0.6 * steps)
        rise = Rise(start, end, rule.ratio, every=max(1, (end - start) // stage.parts))
        return growing_channels(module, free, rule, rise, scores_of, prefix)

    return Growth(zeros, (stage.model_dump(exclude={"recover"}), made_by(chooser)))


def faded(chooser: Chooser[Prune], artifact: Artifact, track: Track) -> Artifact:  # noqa: ARG001
    """The artifact of the network without the channels that are zeros since `fading`."""
    from avcompress.onnx_import import import_onnx
    from avcompress.prune import channel_groups
    from avcompress.prune.growing import gone

    coupling = channel_groups(artifact.model)
    free = concerned(coupling, chooser.stage, chooser.where)
    return _without(artifact, coupling, gone(import_onnx(artifact.model), free))


def _rule(stage: Prune, ratio: float) -> Selection:
    from avcompress.prune.selection import Selection

    return Selection(ratio, stage.scope, stage.alignment or 1, floor=stage.floor)


def _without(artifact: Artifact, coupling: Coupling, removed: Removed) -> Artifact:
    from avcompress.prune import without

    network: onnx.ModelProto = artifact.model
    smaller = without(network, coupling, removed)
    channels, gone = sum(len(group.channels) for group in coupling.groups), sum(map(len, removed.values()))
    # As they are deployed: normalization is no multiplication of its own, and its statistics are no weights.
    before, after = (fold_batch_norms(each) for each in (network, smaller))
    sizes = (
        f"{of(after):,} of {of(before):,} {what}" for what, of in (("MACs", total_macs), ("parameters", parameters))
    )
    line = f"prune: keeps {', '.join((f'{channels - gone} of {channels} channels that can go', *sizes))}"
    return replace(artifact, model=smaller, log=(*artifact.log, line))


def total_macs(network: onnx.ModelProto) -> int:
    """Multiply-accumulates of one image."""
    return sum(macs(network).values())
