"""Spans of OpenTelemetry, where it is installed and a program has set it up; else nothing.

Moments are read anyway, so spans are made of them when a result is out: none is open while a frame is worked on.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

from ros_nodes.core.result import STAGES, Result

Trace = Callable[[Result, int], None]
"""Takes a result, and when it was out by the monotonic clock."""


def no_trace(_: Result, __: int) -> None:
    """Traces nothing."""


def tracer() -> Trace:
    """A span `frame` for each result, with one for every stage and for `publish`; no_trace without OpenTelemetry."""
    try:
        from opentelemetry.trace import get_tracer
    except ImportError:
        return no_trace
    return traced_by(get_tracer("avcompress.ros_nodes"))


def traced_by(spans: Any, time_ns: Callable[[], int] = time.time_ns) -> Trace:
    """Spans of a given opentelemetry.trace.Tracer."""
    from opentelemetry.trace import set_span_in_context

    def record(result: Result, published_ns: int) -> None:
        # Spans tell the time of day; what passed between moments is the monotonic clock's.
        offset = time_ns() - published_ns
        edges = [moment + offset for moment in (*result.moments, published_ns)]
        attributes = {
            "camera": result.camera,
            "engine": result.engine,
            "stamp_ns": result.header.stamp_ns,
            "frame_id": result.header.frame_id,
        }
        frame = spans.start_span("frame", start_time=edges[0], attributes=attributes)
        inside = set_span_in_context(frame)
        for stage, (begin, end) in zip((*STAGES, "publish"), itertools.pairwise(edges), strict=True):
            spans.start_span(stage, context=inside, start_time=begin).end(end)
        frame.end(edges[-1])

    return record
