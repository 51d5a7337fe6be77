"""Plots as inline SVG that takes its colours from the page: readable in light, in dark and on paper."""

from validation.plots.latency import Timeline, latency_plot
from validation.plots.layers import LayerPoint, error_profile, layer_profile
from validation.plots.moves import moves_histogram
from validation.plots.pareto import Point, pareto_plot

__all__ = [
    "LayerPoint",
    "Point",
    "Timeline",
    "error_profile",
    "latency_plot",
    "layer_profile",
    "moves_histogram",
    "pareto_plot",
]
