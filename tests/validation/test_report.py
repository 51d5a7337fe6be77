import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from avcompress.frozen import Model
from avcompress.spec import Check, LayerPlan, Verdict
from validation import report as layout
from validation.latency import Latency
from validation.report import Report, contract_lines, latency_facts, layer_facts, report_json

NAN = float("nan")
DOCS = Path(__file__).resolve().parents[2] / "docs" / "report.md"
MODELS = [
    model
    for model in vars(layout).values()
    if isinstance(model, type) and issubclass(model, Model) and model.__module__ == layout.__name__
]


def strict(text):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_the_json_is_valid_and_says_null_for_what_was_not_measured(make_report):
    report = make_report(checks=(Check("p99.9 @ openvino", NAN, "<=", 8.0, "ms"),))
    data = strict(report_json(report))
    assert data["schema_version"] == 1
    assert data["passed"] is False
    assert data["contract"][0]["measured"] is None
    assert data["contract"][0]["margin"] is None
    assert data["accuracy"]["reference"]["AP/bench"] is None
    assert data["latency"]["ort"]["total"]["p99_ms"] is None
    assert data["created"] == "2027-03-04T15:09:00Z"


def test_a_report_survives_the_round_trip(make_report):
    report = make_report()
    assert Report.model_validate_json(report_json(report)) == report


def test_the_verdict_cannot_contradict_its_lines(make_report):
    with pytest.raises(ValidationError, match="passed: expected True"):
        make_report(passed=False)
    with pytest.raises(ValidationError, match="passed: expected False"):
        make_report(checks=(), passed=True)


@pytest.mark.parametrize("field", ["created", "schema_version"])
def test_a_time_without_zone_and_another_layout_are_refused(make_report, field):
    with pytest.raises(ValidationError, match=field):
        make_report(**{field: {"created": "2027-03-04T15:09:00", "schema_version": 2}[field]})


def test_margins_are_positive_inside_the_limit():
    lines = contract_lines(
        Verdict((Check("a", 3.0, "<=", 5.0), Check("b", 3.0, ">=", 5.0), Check("c", 3.0, "==", 0.0)))
    )
    assert [(line.margin, line.passed) for line in lines] == [(2.0, True), (-2.0, False), (-3.0, False)]


def test_layers_stand_beside_what_engines_tell():
    plan = (LayerPlan("a", "Conv", "int8", "weighted", 5), LayerPlan("b", "Conv", "float", "head", 5))
    rows = layer_facts(plan, {"trt_rtx": {"a": "fp16", "b": "fp16"}, "openvino": {"a": "int8"}})
    assert rows[0].engines == {"trt_rtx": "fp16", "openvino": "int8"}
    assert rows[0].mismatches == ("trt_rtx",)
    assert rows[1].mismatches == ()


def test_every_latency_sample_is_kept():
    facts = latency_facts({"total": Latency((3.0, 1.0, 2.0))}, 5, [])
    assert facts.samples_ms == (3.0, 1.0, 2.0)
    assert (facts.runs, facts.warmup, facts.total.p50_ms, facts.total.p90_ms) == (3, 5, 2.0, None)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_field_is_documented_in_the_words_of_the_model(model):
    section = DOCS.read_text(encoding="utf-8").partition(f"\n## {model.__name__}\n")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == list(model.model_fields)
    for name, field in model.model_fields.items():
        assert any(row.startswith(f"| `{name}` |") and row.endswith(f"| {field.description} |") for row in rows), name
