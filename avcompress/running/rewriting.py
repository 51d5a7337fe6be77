"""The stage `rewrite`: operators written as others that the engine computes faster, where that is measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import onnx

from avcompress.float_network import deployed
from avcompress.recipe import Detection, Engine
from avcompress.recipe_rewrite import Rewrite
from avcompress.running.bench import Bench
from avcompress.running.choosing import Batches, Made, few, may_change, refuse_unmatched
from avcompress.running.teaching import images_of
from avcompress.spec import Artifact, Track
from engines.in_memory import open_model
from engines.turns import Turns, engine_clock
from validation.report import Rewriting, RewritingRule

if TYPE_CHECKING:
    from torch import Tensor

    from avcompress.distill.distance import Distance
    from avcompress.rewrite import Tried

_TURNS = Turns(seconds=1.5)
"""Rules differ by a few hundredths."""
_CLOSE = 0.99
"""Of a speed-up: another measurement differs by as much."""
_JUDGED = 16
"""Images by which it is told what an activation costs."""


def rewrite(bench: Bench, where: str, stage: Rewrite, engine: Engine, artifact: Artifact, track: Track) -> Made:
    """The network as the rules leave it, fitted after one that is not exact.

    Raises RecipeError for a pattern that fits no node, and what the engine raises.
    """
    from avcompress.rewrite import Means
    from avcompress.rewrite import rewrite as apply_rules

    network: onnx.ModelProto = artifact.model
    refuse_unmatched([node.name for node in network.graph.node], stage, where)
    clock = engine_clock(engine, _TURNS)
    means = Means(
        allowed=lambda name: may_change([name], stage),
        clock=lambda networks: clock([deployed(each) for each in networks]),
        moved=lambda now: _moved(bench, stage, now),
        track=track,
    )
    tried = apply_rules(network, stage, means)
    start, end = tried[0].before, next((each.after for each in reversed(tried) if each.kept), network)
    before_ms, after_ms = means.clock([start, end])
    facts = Rewriting(
        step="", engine=engine.backend, before_ms=before_ms, after_ms=after_ms, rules=tuple(map(_rule, tried))
    )
    lines = [*(_line(each, engine.backend) for each in tried), *_short_of(stage, before_ms / after_ms)]
    done = replace(artifact, model=end, log=(*artifact.log, *lines))
    return Made(_fitted(bench, stage, tried, done) if stage.fit else done, facts)


def _rule(tried: Tried) -> RewritingRule:
    return RewritingRule(
        rule=tried.rule, nodes=tried.nodes, before_ms=tried.before_ms, after_ms=tried.after_ms, kept=tried.kept
    )


def _line(tried: Tried, backend: str) -> str:
    if not tried.nodes:
        return f"rewrite: {tried.rule} has nothing to do: there is none of its kind, or the network is fast enough"
    end = "" if tried.kept else ", so that all stays as it was"
    return (
        f"rewrite: {tried.rule} of {len(tried.nodes)} nodes, {tried.before_ms:.4g} -> {tried.after_ms:.4g} ms on "
        f"{backend}{end}"
    )


def _short_of(stage: Rewrite, reached: float) -> Iterator[str]:
    """A line where a speed-up was asked for and is not reached."""
    if stage.speedup is not None and reached < _CLOSE * stage.speedup:
        yield (
            f"rewrite: expected {stage.speedup:.3g} times as fast, got {reached:.3g} with all that could be replaced; "
            "prune besides, or ask for less"
        )


def _images(bench: Bench, stage: Rewrite) -> Iterator[Tensor]:
    from avcompress.train import load

    images = few(images_of(bench), stage.images)
    return (batch for batch, _ in Batches(load(images, bench.recipe.preprocess, labels=False)))


def _fitted(bench: Bench, stage: Rewrite, tried: tuple[Tried, ...], done: Artifact) -> Artifact:
    """Each layer after a rule that is not exact, fitted to what it gave before."""
    from avcompress.prune.fitting import example, fitted
    from avcompress.rewrite import APPROXIMATE

    changed = [each for each in tried if each.kept and each.rule in APPROXIMATE]
    if not changed:
        return done
    factors = {
        node.name: changed[0].factors[node.output[0]]
        for node in done.model.graph.node
        if node.output[0] in changed[0].factors
    }
    images = example(changed[0].before, _images(bench, stage))
    fit = fitted(images, done.model, {}, leave=tuple(done.sparse), factors=factors)
    return replace(
        done, model=fit.network, log=(*done.log, f"rewrite: {len(fit.lost)} layers fitted to what they gave")
    )


def _moved(bench: Bench, stage: Rewrite, network: onnx.ModelProto) -> Callable[[onnx.ModelProto], float]:
    """How far the answers of networks are from those of this one, on some images that a fit does not learn from."""
    import torch

    images = [image[None].numpy() for batch in _images(bench, stage) for image in batch]
    judged = list(islice(images[1::4] or images, _JUDGED))
    name, distance = network.graph.input[0].name, _distance(bench)

    def answers(some: onnx.ModelProto) -> Tensor:
        session = open_model(some, optimize=True)
        return torch.from_numpy(np.concatenate([session.run(None, {name: image})[0] for image in judged]))

    right = answers(network)
    return lambda other: distance(answers(other), right)


def _distance(bench: Bench) -> Distance:
    from avcompress.distill.distance import distance_of_detector, distance_of_segmenter

    task = bench.recipe.task
    return (
        distance_of_detector(task, bench.recipe.preprocess.size)
        if isinstance(task, Detection)
        else distance_of_segmenter
    )
