"""The error analysis as one HTML page that needs nothing else, and as JSON."""

from __future__ import annotations

from pathlib import Path

from markupsafe import Markup

from avcompress.files import write_atomically
from validation.errors import ErrorAnalysis
from validation.page.template import page_template
from validation.plots import error_profile

PAGE = "analysis.html"
FACTS = "analysis.json"


def write_errors(analysis: ErrorAnalysis, folder: Path) -> None:
    """Write analysis.json and analysis.html, each one completely or not at all; raises OutputError."""
    write_atomically(folder / FACTS, analysis.model_dump_json(indent=1) + "\n")
    write_atomically(folder / PAGE, render_errors(analysis))


def render_errors(analysis: ErrorAnalysis) -> str:
    """The analysis as a self-contained page: the split first, then growth through depth, then every layer."""
    plot = error_profile([layer.own_db for layer in analysis.layers], [layer.depth_db for layer in analysis.layers])
    macs = sum(layer.macs for layer in analysis.layers)
    return page_template("errors.html.j2").render(analysis=analysis, plot=Markup(plot), macs=macs)  # noqa: S704 (drawn here)
