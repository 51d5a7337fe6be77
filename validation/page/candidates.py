"""The page's part on several candidates."""

from __future__ import annotations

from markupsafe import Markup

from validation.page.accuracy import main_metric
from validation.page.write import metric, ms
from validation.plots import Point, pareto_plot
from validation.report import Report


def pareto(report: Report) -> tuple[Markup, str] | None:
    """The plot and its words; None without at least two candidates that were measured."""
    points = [
        Point(found.name, found.latency_ms, found.accuracy, found.on_front, found.chosen)
        for found in report.candidates
        if found.latency_ms is not None and found.accuracy is not None
    ]
    if len(points) < 2:
        return None
    name = main_metric(report)
    deadline = min((line.limit for line in report.contract if line.unit == "ms"), default=None)
    floors = (line.limit for line in report.contract if line.metric == name and line.sense == ">=" and not line.slice)
    plot = Markup(pareto_plot(points, name, deadline, max(floors, default=None)))  # noqa: S704 (drawn here)
    front = ", ".join(
        f"{point.name} ({metric(point.accuracy)} at {ms(point.latency_ms)} ms)" for point in points if point.on_front
    )
    return plot, f"{name} against latency of {len(points)} candidates; on the front: {front}."
