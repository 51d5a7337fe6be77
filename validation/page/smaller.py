"""The page's part on a network that was made smaller: layers before and after, importance, latency as it was to be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from validation.page.layers import node_times
from validation.page.write import ms, share
from validation.plots import Pair, Ranked, importance_plot, pairs_plot
from validation.report import Factor, Factorization, LayerTime, LayerWidth, Pruning, Report, SmallerFacts


@dataclass(frozen=True)
class Drawn:
    """A plot and what it shows, in words; and whether there is more of something than before."""

    plot: Markup
    text: str
    grown: bool = False


@dataclass(frozen=True)
class Reached:
    """A latency that was aimed at; all in milliseconds but for how far the prediction was off, a share."""

    step: str
    engine: str
    before: float
    goal: float
    predicted: float
    measured: float
    off: float


@dataclass(frozen=True)
class Smaller:
    """All that is shown.

    Attributes:
        facts: the report's.
        zeros: share of all weights of layers that are 0.
        widths: channels and multiply-accumulates by layer.
        times: (engine, plot) of the layers' time before and after.
        importance: (step, what importance is, plot) of each step that tells.
        goals: latencies that were aimed at.
        factors: the layers that were taken apart, by what step.
    """

    facts: SmallerFacts
    zeros: float
    widths: Drawn
    times: tuple[tuple[str, Drawn], ...]
    importance: tuple[tuple[Pruning, Drawn], ...]
    goals: tuple[Reached, ...]
    factors: tuple[tuple[Factorization, Factor], ...]

    @property
    def grown(self) -> bool:
        """Whether some layer takes more than it did."""
        return any(drawn.grown for drawn in (self.widths, *(drawn for _, drawn in self.times)))

    @property
    def macs(self) -> float | None:
        """The share of multiply-accumulates that is left."""
        return self.facts.macs_after / self.facts.macs_before if self.facts.macs_before else None

    @property
    def parameters(self) -> float | None:
        """The share of parameters that is left."""
        return self.facts.parameters_after / self.facts.parameters_before if self.facts.parameters_before else None


def smaller(report: Report) -> Smaller | None:
    """What is shown of a report; None where nothing was made smaller."""
    facts = report.smaller
    if facts is None or not facts.layers:
        return None
    return Smaller(
        facts=facts,
        zeros=_zeros(facts.layers),
        widths=_widths(facts.layers),
        times=tuple(_times(report, facts)),
        importance=tuple(_importance(facts.prunings)),
        goals=tuple(_goals(facts.prunings)),
        factors=tuple((step, factor) for step in facts.factorizations for factor in step.layers),
    )


def _zeros(layers: Sequence[LayerWidth]) -> float:
    """By multiply-accumulates, which stand for weights as they are used."""
    total = sum(layer.macs_after for layer in layers)
    return sum(layer.zeros * layer.macs_after for layer in layers) / total if total else 0.0


def _widths(layers: Sequence[LayerWidth]) -> Drawn:
    channels = [Pair(layer.name, layer.before, layer.after) for layer in layers]
    counts = [Pair(layer.name, layer.macs_before / 1e6, layer.macs_after / 1e6) for layer in layers]
    plot = pairs_plot([("channels", channels), ("million MACs", counts)], "widths")
    narrower = sum(layer.after < layer.before for layer in layers)
    text = f"Channels and multiply-accumulates of {len(layers)} layers before and after; {narrower} are narrower."
    return Drawn(Markup(plot), text, _grown([*channels, *counts]))  # noqa: S704 (drawn here)


def _grown(pairs: Sequence[Pair]) -> bool:
    return any(pair.after > pair.before for pair in pairs)


def _times(report: Report, facts: SmallerFacts) -> Iterator[tuple[str, Drawn]]:
    for engine, before in facts.layer_times.items():
        after = report.layer_times.get(engine)
        if after:
            yield engine, _time(engine, facts.layers, before, after)


def _time(engine: str, layers: Sequence[LayerWidth], before: Sequence[LayerTime], after: Sequence[LayerTime]) -> Drawn:
    old, new = node_times(before), node_times(after)
    pairs = []
    for layer in layers:
        parts = [name for name in new if name == layer.name or (layer.parts > 1 and name.startswith(f"{layer.name}/"))]
        then = old[layer.name].ms if layer.name in old else 0.0
        pairs.append(Pair(layer.name, then, sum(new[name].ms for name in parts)))
    sums = [sum(getattr(pair, side) for pair in pairs) for side in ("before", "after")]
    text = f"Time of {len(pairs)} weighted layers on {engine}: {ms(sums[0])} ms before, {ms(sums[1])} ms after."
    plot = pairs_plot([(f"ms, {engine}", pairs)], f"times-{engine}")
    return Drawn(Markup(plot), text, _grown(pairs))  # noqa: S704 (drawn here)


def _importance(prunings: Sequence[Pruning]) -> Iterator[tuple[Pruning, Drawn]]:
    for index, pruning in enumerate(prunings):
        if pruning.groups:
            groups = [Ranked(each.layer, each.scores, each.kept / each.channels) for each in pruning.groups]
            kept, all_of = (sum(getattr(each, name) for each in pruning.groups) for name in ("kept", "channels"))
            text = f"Importance of the channels of {len(groups)} groups; {kept} of {all_of} are kept."
            yield pruning, Drawn(Markup(importance_plot(groups, f"importance-{index}")), text)  # noqa: S704 (drawn here)


def _goals(prunings: Sequence[Pruning]) -> Iterator[Reached]:
    for pruning in prunings:
        goal = pruning.goal
        if goal is not None:
            off = goal.predicted_ms / goal.measured_ms - 1
            yield Reached(
                pruning.step, goal.engine, goal.before_ms, goal.goal_ms, goal.predicted_ms, goal.measured_ms, off
            )


def lead(found: Smaller) -> str:
    """What is left, in one sentence."""
    facts = found.facts
    text = (
        f"{share(found.macs)} of {facts.macs_before / 1e6:,.1f} million multiply-accumulates and "
        f"{share(found.parameters)} of {facts.parameters_before:,} parameters are left"
    )
    return (
        f"{text}; {share(found.zeros)} of the multiplications are by weights that are 0." if found.zeros else f"{text}."
    )
