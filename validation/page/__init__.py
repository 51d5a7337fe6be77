"""The report as one HTML page that needs nothing else: no network, no scripts, no other file."""

from validation.page.render import render_html, write_report
from validation.page.template import page_template

__all__ = ["page_template", "render_html", "write_report"]
