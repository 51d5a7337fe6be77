"""The templates of pages, with the filters that all of them use."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from validation.page import write

_FILTERS = (
    write.metric, write.change, write.ends, write.ms, write.share, write.rate, write.count,
    write.amount, write.size,
    write.duration, write.decibels, write.data_uri, write.layer_line,
)  # fmt: skip


def page_template(name: str) -> Template:
    """A template of this package."""
    environment = Environment(
        loader=PackageLoader("validation", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update({function.__name__: function for function in _FILTERS})
    return environment.get_template(name)
