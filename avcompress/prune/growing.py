"""Structured pruning while a network trains: more and more channels become zeros, and are cut out at the end.

All trained values of a removed channel are 0: those that compute it, its normalization's scale and shift, and the
weights that read it. So it gives nothing to anyone, whatever activation lies between; where `inexact` of its group is
empty, the smaller network computes the same. Which channels are gone is read from the weights themselves: a channel is
one all of whose weights are 0, so that nothing has to be kept beside a checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, fx, nn

from avcompress.prune.groups import Coupling
from avcompress.prune.importance.scores import Line, Scores, lines, relative
from avcompress.prune.schedule import Rise
from avcompress.prune.selection import Selection, select
from avcompress.prune.weights import layers_of
from avcompress.spec import Array
from avcompress.train.zeros import Masks, Zeros, mask_

ScoresOf = Callable[[nn.Module], Scores]
"""The importance of the channels of what is trained, at that time."""


class _Part(NamedTuple):
    """Where channels of a group lie along one axis of a parameter; as Line, with tensors."""

    parameter: str
    axis: int
    positions: Tensor
    channels: Tensor


class _Places(NamedTuple):
    """Where the channels of a network lie in the parameters of what is trained.

    Attributes:
        parts: by group.
        counts: of channels, by group.
        weights: the parameters that layers multiply by.
    """

    parts: Mapping[str, tuple[_Part, ...]]
    counts: Mapping[str, int]
    weights: frozenset[str]


def growing_channels(
    module: fx.GraphModule,
    coupling: Coupling,
    rule: Selection,
    rise: Rise,
    scores_of: ScoresOf | None = None,
    prefix: str = "",
) -> Zeros:
    """Zeros for `run_steps`: channels that are removed step by step, as `rule` has it, by `rise.final` at the end.

    Args:
        module: what import_onnx made of the network; its names and shapes are read, not its values.
        coupling: of the network.
        rule: how channels are chosen; its ratio is that of the schedule.
        rise: the schedule.
        scores_of: the importance of the channels of a module at that time; by default the squares of its weights.
        prefix: of the parameters' names in what is trained, as "student.".

    Raises RecipeError, before anything is trained, for a rule that does not fit the network or the schedule.
    """
    places = _places(module, coupling, prefix)
    alike = {name: np.ones(count) for name, count in places.counts.items()}
    select(coupling, alike, replace(rule, ratio=rise.final))

    def masks(trained: nn.Module) -> Masks:
        return _masks(trained, places, _gone(trained, places))

    def grow_(trained: nn.Module, done: int) -> None:
        if not rise.is_due(done):
            return
        dead = _gone(trained, places)
        scores = scores_of(trained) if scores_of else _squares(trained, places)
        # What is gone stays so, and counts in the share that is removed.
        scores = {name: np.where(dead[name], 0.0, values) for name, values in scores.items()}
        for name, channels in select(coupling, scores, replace(rule, ratio=rise.at(done))).items():
            dead[name][list(channels)] = True
        mask_(trained, _masks(trained, places, dead))

    return Zeros(masks, grow_, rise.end)


def gone(module: fx.GraphModule, coupling: Coupling, prefix: str = "") -> dict[str, tuple[int, ...]]:
    """The channels that are zeros, to be cut out of the network; groups without any are left out."""
    found = _gone(module, _places(module, coupling, prefix))
    return {name: tuple(int(i) for i in np.flatnonzero(dead)) for name, dead in found.items() if dead.any()}


def _places(module: fx.GraphModule, coupling: Coupling, prefix: str) -> _Places:
    attributes: Mapping[str, str] = module.meta["parameters"]

    def part(line: Line) -> _Part:
        positions, channels = torch.from_numpy(line.positions), torch.from_numpy(line.channels)
        return _Part(prefix + attributes[line.tensor], line.axis, positions, channels)

    weights = {weight.tensor for weight, _ in layers_of(module)} & attributes.keys()
    parts = {g.name: tuple(part(line) for line in lines(g) if line.tensor in attributes) for g in coupling.groups}
    counts = {group.name: len(group.channels) for group in coupling.groups}
    return _Places(parts, counts, frozenset(prefix + attributes[name] for name in weights))


def _sums(trained: nn.Module, places: _Places, value_of: Callable[[Tensor], Tensor]) -> dict[str, Array]:
    """By group, the sums over the weights of each channel of a value of each weight, float64."""
    known: dict[tuple[str, int], Tensor] = {}

    def along(part: _Part) -> Tensor:
        key = (part.parameter, part.axis)
        if key not in known:
            values = value_of(trained.get_parameter(part.parameter).detach())
            known[key] = values.sum([i for i in range(values.dim()) if i != part.axis], dtype=torch.float64).cpu()
        return known[key]

    found = {}
    for name, parts in places.parts.items():
        total = torch.zeros(places.counts[name], dtype=torch.float64)
        for part in parts:
            if part.parameter in places.weights:
                total.index_add_(0, part.channels, along(part)[part.positions])
        found[name] = np.asarray(total.numpy())
    return found


def _squares(trained: nn.Module, places: _Places) -> dict[str, Array]:
    return relative(_sums(trained, places, torch.square))


def _gone(trained: nn.Module, places: _Places) -> dict[str, Array]:
    return {name: count == 0 for name, count in _sums(trained, places, lambda w: w != 0).items()}


def _masks(trained: nn.Module, places: _Places, gone: Mapping[str, Array]) -> Masks:
    """False at every place of a channel that is gone; parameters without such a place are left out."""
    found: dict[str, Tensor] = {}
    for name, parts in places.parts.items():
        dead = torch.from_numpy(gone[name])
        for part in parts if gone[name].any() else ():
            parameter = trained.get_parameter(part.parameter)
            mask = found.setdefault(part.parameter, torch.ones_like(parameter, dtype=torch.bool))
            mask.index_fill_(part.axis, part.positions[dead[part.channels]].to(mask.device), False)
    return found
