"""Spans of OpenTelemetry, made of a result's moments."""

import sys

import numpy as np
import pytest

from calibration.frame import Header
from ros_nodes.core.result import STAGES, Moments, Result
from ros_nodes.core.tracing import no_trace, traced_by, tracer

RESULT = Result(
    "front", Header(5, 6, "optical"), (4, 4), np.zeros((4, 4), np.uint8), "tiny", Moments(100, 130, 140, 160, 220, 230)
)


def test_without_opentelemetry_nothing_is_traced(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", None)
    assert tracer() is no_trace
    no_trace(RESULT, 250)


def test_stages_are_spans_of_a_frame_that_follow_each_other_without_a_gap():
    pytest.importorskip("opentelemetry.sdk", reason="needs opentelemetry-sdk")
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    memory, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(memory))
    traced_by(provider.get_tracer("test"), time_ns=lambda: 1_000_250)(RESULT, 250)
    *stages, frame = memory.get_finished_spans()
    assert [span.name for span in stages] == [*STAGES, "publish"]
    # The monotonic clock's 250 is 1,000,250 by the time of day.
    assert [(span.start_time, span.end_time) for span in stages] == [
        (1_000_100, 1_000_130),
        (1_000_130, 1_000_140),
        (1_000_140, 1_000_160),
        (1_000_160, 1_000_220),
        (1_000_220, 1_000_230),
        (1_000_230, 1_000_250),
    ]
    assert (frame.name, frame.start_time, frame.end_time) == ("frame", 1_000_100, 1_000_250)
    assert dict(frame.attributes) == {
        "camera": "front",
        "engine": "tiny",
        "stamp_ns": 5_000_000_006,
        "frame_id": "optical",
    }
    assert {span.parent.span_id for span in stages} == {frame.context.span_id}


def test_a_node_traces_every_result_whatever_its_transport_and_lives_on_without(bench, monkeypatch):
    from ros_nodes.core import node

    traced = []
    monkeypatch.setattr(node, "tracer", lambda: lambda result, at_ns: traced.append((result.camera, at_ns)))
    b = bench().start()
    b.serve(2)
    assert [camera for camera, _ in traced] == ["front", "front"]
    assert traced[1][1] - traced[0][1] == 1_000_000

    def refuse(*_):
        raise RuntimeError("no exporter")

    monkeypatch.setattr(node, "tracer", lambda: refuse)
    b = bench().start()
    b.serve(2)
    assert (len(b.port.published), b.dropped()) == (2, {})
    assert b.status("engine").values["last_transport_error"] == "no exporter"
