"""The stage `prune`: which channels go, at once or while the network trains, and the network without them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import onnx

from avcompress.recipe_prune import Importance, Prune, ScoreFile, ScoreFunction
from avcompress.running.budgeting import Budget, chosen_for
from avcompress.running.choosing import Chooser, Made, channel_scores, concerned, made_by
from avcompress.running.training import Growth
from avcompress.spec import Array, Artifact, Track
from engines.onnx_graph import fold_batch_norms, parameters, total_macs
from validation.report import GroupImportance, Pruning

if TYPE_CHECKING:
    from torch import fx, nn

    from avcompress.prune import Coupling, Removed
    from avcompress.prune.importance import Scores
    from avcompress.prune.selection import Selection
    from avcompress.train import Zeros


@dataclass(frozen=True)
class Part:
    """One part of a stage.

    Attributes:
        number: counted from 1.
        start: the network as it was before the first part.
        budget: what the network may take after this part, where that is what the stage asks for.
    """

    number: int
    start: onnx.ModelProto
    budget: Budget | None = None


def prune(chooser: Chooser[Prune], part: Part, artifact: Artifact, track: Track) -> Made:
    """The network without the channels that go in one part of a stage, which has its alignment.

    Raises RecipeError for a ratio, an alignment or a latency that the layers cannot have, ModelError for a network
    whose channels cannot be told apart, or for importance that is not finite.
    """
    from avcompress.prune import channel_groups
    from avcompress.prune.importance import check_scores

    coupling = channel_groups(artifact.model)
    free = concerned(coupling, chooser.stage, chooser.where)
    scores = channel_scores(chooser.watched(track), artifact.model, free)
    check_scores(free, scores)
    goal = None
    if part.budget is None:
        removed = _by_share(chooser, part, free, scores)
    else:
        removed, goal = chosen_for(chooser, part.budget, artifact.model, scores)
    told = _told(chooser.stage.importance)
    fixed = {layer.layer: layer.reason for layer in coupling.fixed}
    facts = Pruning(step="", importance=told, groups=_groups(free, scores, removed), goal=goal, fixed=fixed)
    done = _without(artifact, coupling, removed)
    return Made(_fitted(chooser, artifact, coupling, removed, done) if chooser.stage.fit else done, facts)


def _fitted(chooser: Chooser[Prune], whole: Artifact, coupling: Coupling, removed: Removed, done: Artifact) -> Artifact:
    """What is left of each layer, fitted to what the whole one gave; zeros stay."""
    from avcompress.prune.fitting import example, fitted, outputs_gone

    gone = outputs_gone(whole.model, coupling, removed)
    fit = fitted(example(whole.model, chooser.images()), done.model, gone, leave=tuple(whole.sparse))
    if not fit.lost:
        return replace(done, log=(*done.log, "prune: no layer could be fitted better than it was"))
    before, after = (np.mean(side) for side in zip(*fit.lost.values(), strict=True))
    line = (
        f"prune: {len(fit.lost)} layers fitted to what they gave: {100 * after:.1f} % of their outputs' variance is "
        f"lost in the mean, {100 * before:.1f} % before, on images held out"
    )
    return replace(done, model=fit.network, log=(*done.log, line))


def _told(importance: Importance) -> str:
    """What importance goes by, for people."""
    match importance:
        case ScoreFile(file=file):
            return file
        case ScoreFunction(function=function):
            return function
        case _:
            return str(importance)


def _by_share(chooser: Chooser[Prune], part: Part, free: Coupling, scores: Scores) -> Removed:
    from avcompress.prune import channel_groups
    from avcompress.prune.schedule import rounds
    from avcompress.prune.selection import select, to_widths

    stage = chooser.stage
    rule = _rule(stage, rounds(stage.ratio or 0.0, stage.parts)[part.number - 1])
    if part.number == 1:
        return select(free, scores, rule)
    # Widths are of the network as it was: of what each part leaves they would be rounded again and again.
    first = concerned(channel_groups(part.start), stage, chooser.where)
    removed = select(first, _with_gone(scores, first), rule)
    left = {group.name: len(group.channels) - len(removed.get(group.name, ())) for group in first.groups}
    return to_widths(free, scores, {g.name: min(left[g.name], len(g.channels)) for g in free.groups})


def _with_gone(scores: Scores, first: Coupling) -> Scores:
    """The scores of the network as it was: of channels that are gone 0, which go first."""
    counts = {group.name: len(group.channels) for group in first.groups}
    return {name: np.pad(each, (counts[name] - len(each), 0)) for name, each in scores.items()}


def _groups(coupling: Coupling, scores: Scores, removed: Removed) -> tuple[GroupImportance, ...]:
    return tuple(
        GroupImportance(
            layer=group.name,
            channels=len(group.channels),
            kept=len(group.channels) - len(removed.get(group.name, ())),
            scores=_some(np.sort(np.asarray(scores[group.name], np.float64))[::-1]),
        )
        for group in coupling.groups
        if group.name in scores
    )


def _some(values: Array) -> tuple[float, ...]:
    """At most so many of them, evenly spread, in four digits."""
    places = np.linspace(0, len(values) - 1, min(len(values), SHOWN_SCORES)).round().astype(int)
    return tuple(float(f"{value:.4g}") for value in values[places])


SHOWN_SCORES = 64


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

    return Growth(zeros, (stage.model_dump(exclude={"recover"}), stage.alignments, made_by(chooser)))


def faded(chooser: Chooser[Prune], artifact: Artifact, track: Track) -> Made:  # noqa: ARG001
    """The network without the channels that are zeros since `fading`."""
    from avcompress.onnx_import import import_onnx
    from avcompress.prune import channel_groups
    from avcompress.prune.growing import gone

    coupling = channel_groups(artifact.model)
    free = concerned(coupling, chooser.stage, chooser.where)
    return Made(_without(artifact, coupling, gone(import_onnx(artifact.model), free)))


def _rule(stage: Prune, ratio: float) -> Selection:
    from avcompress.prune.selection import Selection

    return Selection(ratio, stage.scope, *stage.alignments, floor=stage.floor)


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
