import json
import math
from pathlib import Path

import pytest
from pydantic import ValidationError

from avcompress.frozen import Model
from avcompress.spec import Check, LayerPlan, Verdict
from validation import report as layout
from validation.comparison import Comparison, Estimate, SliceResult
from validation.drift import LayerDrift
from validation.latency import Latency
from validation.report import Report, ScenarioFacts, report_json
from validation.report.facts import comparison_facts, contract_lines, drift_facts, latency_facts, layer_facts

NAN = float("nan")
DOCS = Path(__file__).resolve().parents[2] / "docs" / "report.md"
MODELS = [model for model in vars(layout).values() if isinstance(model, type) and issubclass(model, Model)]


def strict(text):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_the_json_is_valid_and_says_null_for_what_was_not_measured(make_report):
    report = make_report(checks=(Check("p99.9 @ openvino", NAN, "<=", 8.0, "ms"),))
    data = strict(report_json(report))
    assert data["schema_version"] == 2
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
        make_report(**{field: {"created": "2027-03-04T15:09:00", "schema_version": 1}[field]})


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


def test_intervals_keep_their_ends_and_only_the_whole_set_has_figures_by_class():
    figures = {"AP": Estimate(0.5, 0.4, 0.6), "AP/dog": Estimate(NAN, NAN, NAN)}
    part = SliceResult(9, 40, figures, figures, {"AP": Estimate(0.0, -0.1, 0.1)})
    found = comparison_facts(Comparison({"all": part, "size:small": part, "fog:3": part}, 1000, 0.95), {"fog:3"})

    assert [list(row.reference) for row in found.slices] == [["AP", "AP/dog"], ["AP"], ["AP"]]
    assert [row.corruption for row in found.slices] == [False, False, True]
    assert (found.slices[0].drop["AP"].low, found.slices[0].network["AP/dog"].value) == (-0.1, None)
    assert found.find("size:small") is found.slices[1]
    assert found.find("size:large") is None


def test_the_first_layer_below_the_bound_is_named_and_equal_layers_have_no_ratio():
    rows = [LayerDrift(name, name, db, 1.0, 0.1, 2.0) for name, db in (("a", math.inf), ("b", 20.0), ("c", 9.0))]

    assert drift_facts(rows, 10.0).first_beyond == "c"
    assert drift_facts(rows, 9.0).first_beyond is None
    assert drift_facts([*rows, LayerDrift("d", "d", NAN, NAN, NAN, NAN)], 9.0).first_beyond == "d"
    assert [layer.sqnr_db for layer in drift_facts(rows).layers] == [None, 20.0, 9.0]


def test_every_sample_of_a_scenario_has_its_arrival():
    with pytest.raises(ValidationError, match="expected one for each of 2 arrivals, got 1"):
        ScenarioFacts(
            engine="ort", scenario="single_stream", warmup=0, percentiles={}, mean_ms=1.0, max_ms=1.0,
            arrivals_s=(0.0, 0.1), samples_ms=(1.0,),
        )  # fmt: skip


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_field_is_documented_in_the_words_of_the_model(model):
    section = DOCS.read_text(encoding="utf-8").partition(f"\n## {model.__name__}\n")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == list(model.model_fields)
    for name, field in model.model_fields.items():
        assert any(row.startswith(f"| `{name}` |") and row.endswith(f"| {field.description} |") for row in rows), name
