"""The page's part on layers: precision as planned, error beside time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from validation.page.write import decibels
from validation.plots import LayerPoint, layer_profile
from validation.report import DriftLayer, LayerFacts, LayerTime, Report

SHOWN_LAYERS = 10


@dataclass(frozen=True)
class Reason:
    """The layers that share a precision and a reason."""

    precision: str
    reason: str
    layers: int
    macs: int


@dataclass(frozen=True)
class LayerRow:
    """One layer with all that is known of it; `ms` is by engine; bars are 0 to 100 of the table's largest."""

    name: str
    op: str
    precision: str
    reason: str
    macs: int | None
    sqnr_db: float | None
    cosine: float | None
    max_error: float | None
    ms: Mapping[str, float]
    told: Mapping[str, str]
    mismatches: tuple[str, ...]
    beyond: bool

    @property
    def slowest(self) -> float:
        """Its time on the engine where it takes longest."""
        return max(self.ms.values(), default=0.0)


@dataclass(frozen=True)
class LayerTable:
    """Every layer.

    Attributes:
        rows: in the order of the network.
        first: those shown first: with most noise, or that take longest where noise is unknown.
        by_noise: whether noise is known.
        engines: that tell times.
        told: engines that tell precisions.
        most_ms: the longest time.
        most_db: the highest signal to noise.
        plot: error and time of all.
        text: what the plot shows, in words.
        beyond: the first below the bound.
        bound_db: the least that is allowed.
        added: (engine, milliseconds, of all milliseconds) of the steps that an engine added to the network.
    """

    rows: tuple[LayerRow, ...]
    first: tuple[LayerRow, ...]
    by_noise: bool
    engines: tuple[str, ...]
    told: tuple[str, ...]
    most_ms: float
    most_db: float
    plot: Markup
    text: str
    beyond: str
    bound_db: float | None
    added: tuple[tuple[str, float, float], ...]


def int8_share(layers: Sequence[LayerFacts]) -> float | None:
    """The share of multiply-accumulates that is planned as INT8."""
    macs = sum(layer.macs for layer in layers)
    return sum(layer.macs for layer in layers if layer.precision == "int8") / macs if macs else None


def reasons(layers: Sequence[LayerFacts]) -> list[Reason]:
    """Layers by precision and reason, most MACs first."""
    groups: dict[tuple[str, str], list[LayerFacts]] = {}
    for layer in layers:
        groups.setdefault((layer.precision, layer.reason), []).append(layer)
    found = [Reason(*key, len(group), sum(layer.macs for layer in group)) for key, group in groups.items()]
    return sorted(found, key=lambda reason: -reason.macs)


def layer_table(report: Report) -> LayerTable:
    """Weighted layers and those whose error is known, in the order of the network."""
    rows = _rows(report)
    noisy = [row for row in rows if row.sqnr_db is not None]
    timed = [row for row in rows if row.ms]
    by_noise = bool(noisy)
    first = sorted(noisy, key=lambda row: row.sqnr_db or 0.0) if noisy else sorted(timed, key=lambda row: -row.slowest)
    drift = report.drift
    beyond = "" if drift is None or drift.first_beyond is None else drift.first_beyond
    bound = None if drift is None else drift.bound_db
    points = [LayerPoint(row.name, row.precision or _told(row), row.sqnr_db, row.ms) for row in rows]
    # Safe: matplotlib wrote it, and escapes what is drawn as text.
    plot = Markup(layer_profile(points, bound, beyond)) if noisy or timed else Markup("")  # noqa: S704
    return LayerTable(
        rows=tuple(rows),
        first=tuple(first[:SHOWN_LAYERS]),
        by_noise=by_noise,
        engines=tuple(dict.fromkeys(engine for row in rows for engine in row.ms)),
        told=tuple(dict.fromkeys(engine for row in rows for engine in row.told)),
        most_ms=max((row.slowest for row in rows), default=0.0),
        most_db=max((row.sqnr_db for row in noisy if row.sqnr_db is not None), default=0.0),
        plot=plot,
        text=_alternative(rows, noisy, timed, beyond),
        beyond=beyond,
        bound_db=bound,
        added=tuple(_added(report)),
    )


def _added(report: Report) -> Iterator[tuple[str, float, float]]:
    for engine, layers in report.layer_times.items():
        own = sum(layer.ms for layer in layers if not layer.nodes)
        if own:
            yield engine, own, sum(layer.ms for layer in layers)


def _rows(report: Report) -> list[LayerRow]:
    drift = {layer.layer: layer for layer in report.drift.layers} if report.drift else {}
    weighted = {layer.name: layer for layer in report.layers}
    times = {engine: node_times(layers) for engine, layers in report.layer_times.items()}
    bound = report.drift.bound_db if report.drift else None
    return [
        _row(name, weighted.get(name), drift.get(name), times, bound) for name in _merged(list(drift), list(weighted))
    ]


def _row(
    name: str,
    layer: LayerFacts | None,
    drift: DriftLayer | None,
    times: Mapping[str, Mapping[str, LayerTime]],
    bound_db: float | None,
) -> LayerRow:
    timed = {engine: found[name] for engine, found in times.items() if name in found}
    told = {engine: time.precision for engine, time in timed.items() if time.precision}
    noise = None if drift is None else drift.sqnr_db
    return LayerRow(
        name=name,
        op=layer.op if layer else "",
        precision=layer.precision if layer else "",
        reason=layer.reason if layer else "",
        macs=layer.macs if layer else None,
        sqnr_db=noise,
        cosine=drift.cosine if drift else None,
        max_error=drift.max_error if drift else None,
        ms={engine: time.ms for engine, time in timed.items()},
        told={**told, **(layer.engines if layer else {})},
        mismatches=layer.mismatches if layer else (),
        beyond=noise is not None and bound_db is not None and noise < bound_db,
    )


def node_times(layers: Sequence[LayerTime]) -> dict[str, LayerTime]:
    """By the network's node: a layer that stands for several is shown at the first of them."""
    found: dict[str, LayerTime] = {}
    for layer in layers:
        for node in layer.nodes[:1]:
            before = found.get(node)
            found[node] = layer if before is None else before.model_copy(update={"ms": before.ms + layer.ms})
    return found


def _merged(names: list[str], others: list[str]) -> list[str]:
    """Two lists in the order of the network as one: what only the second has comes after its neighbour there."""
    places = {name: index for index, name in enumerate(names)}
    after: dict[int, list[str]] = {}
    last = -1
    for name in others:
        if name in places:
            last = places[name]
        else:
            after.setdefault(last, []).append(name)
    merged = after.get(-1, [])
    for index, name in enumerate(names):
        merged = [*merged, name, *after.get(index, [])]
    return merged


def _told(row: LayerRow) -> str:
    return next(iter(row.told.values()), "")


def _alternative(rows: Sequence[LayerRow], noisy: Sequence[LayerRow], timed: Sequence[LayerRow], beyond: str) -> str:
    """What the plot shows, in words."""
    said = []
    if noisy:
        worst = min(noisy, key=lambda row: row.sqnr_db or 0.0)
        said.append(f"the least signal to noise is {decibels(worst.sqnr_db)} dB at {worst.name}")
    if beyond:
        said.append(f"the first layer below the bound is {beyond}")
    if timed:
        slowest = max(timed, key=lambda row: row.slowest)
        said.append(f"the slowest is {slowest.name} with {slowest.slowest:.3f} ms")
    return f"Signal to noise and time of {len(rows)} layers in the order of the network: {'; '.join(said)}."
