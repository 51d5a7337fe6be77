"""Plots as inline SVG that takes its colours from the page: readable in light, in dark and on paper."""

from validation.plots.latency import Timeline, latency_plot
from validation.plots.layers import LayerPoint, error_profile, layer_profile
from validation.plots.moves import moves_histogram
from validation.plots.pareto import Point, pareto_plot
from validation.plots.smaller import Pair, Ranked, importance_plot, pairs_plot

__all__ = [
    "LayerPoint",
    "Pair",
    "Point",
    "Ranked",
    "Timeline",
    "error_profile",
    "importance_plot",
    "latency_plot",
    "layer_profile",
    "moves_histogram",
    "pairs_plot",
    "pareto_plot",
]
