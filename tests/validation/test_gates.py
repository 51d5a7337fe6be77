import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avcompress.contract import AccuracyTerm, Contract, Int8Term, LatencyTerm, Measure
from avcompress.spec import Check, LayerPlan, RecipeError, Verdict
from validation.detection import detection_metric_names
from validation.gates import Evidence, check_contract, explain, find_metric, int8_share, judge
from validation.latency import Latency

NAN = float("nan")
REFERENCE = {"AP": 0.30, "AP50": 0.45, "AP/car": 0.41}
QUANTIZED = {"AP": 0.29, "AP50": 0.44, "AP/car": 0.40}
LAYERS = (LayerPlan("a", "Conv", "int8", "weighted", 300), LayerPlan("b", "Conv", "float", "head", 100))
HUNDRED = Latency(tuple(float(value) for value in range(1, 101)))


def evidence(**changes):
    values = {
        "reference": REFERENCE,
        "metrics": {"openvino": QUANTIZED, "ort": QUANTIZED},
        "latency": {"openvino": HUNDRED},
        "layers": LAYERS,
        "mismatches": {"trt_rtx": ()},
    }
    return Evidence(**{**values, **changes})


def contract(*, metric="AP", percentile="p99", deadline_ms=99.0, engine="openvino"):
    return Contract(
        accuracy=(AccuracyTerm(metric=metric, min=0.25, max_drop=0.01),),
        latency=(LatencyTerm(percentile=percentile, deadline_ms=deadline_ms, engine=engine),),
        int8=Int8Term(min_macs=0.75),
    )


def test_a_contract_that_is_kept_exactly_passes_line_by_line():
    verdict = judge(contract(), evidence())
    assert verdict.passed
    assert [(check.name, check.measured, check.sense, check.limit, check.unit) for check in verdict.checks] == [
        ("AP @ openvino", 0.29, ">=", 0.25, ""),
        ("AP drop @ openvino", 0.01, "<=", 0.01, ""),
        ("AP @ ort", 0.29, ">=", 0.25, ""),
        ("AP drop @ ort", 0.01, "<=", 0.01, ""),
        ("p99 @ openvino", 99.0, "<=", 99.0, "ms"),
        ("INT8 share of MACs", 0.75, ">=", 0.75, ""),
        ("layers as planned @ trt_rtx", 0.0, "==", 0.0, "mismatches"),
    ]
    assert explain(contract(), evidence()) == ()


def test_one_engine_that_falls_short_fails_the_verdict():
    verdict = judge(contract(), evidence(metrics={"openvino": QUANTIZED, "ort": QUANTIZED | {"AP": 0.2}}))
    assert not verdict.passed
    assert [check.name for check in verdict.failures] == ["AP @ ort", "AP drop @ ort"]


def test_an_empty_verdict_and_nan_never_pass():
    assert not Verdict(()).passed
    assert not Verdict((Check("x", NAN, ">=", 0.0), Check("y", 1.0, ">=", 0.0))).passed
    for sense in ("<=", ">=", "=="):
        assert not Check("x", NAN, sense, NAN).passed


def test_terms_on_engines_that_did_not_run_fail_and_say_why():
    nothing = evidence(metrics={}, latency={}, layers=(), mismatches={})
    verdict = judge(contract(), nothing)
    assert not any(check.passed for check in verdict.checks)
    assert all(math.isnan(check.measured) for check in verdict.checks)
    notes = explain(contract(), nothing)
    assert len(notes) == len(verdict.checks)
    assert "AP @ no engine: not measured: no engine of this recipe runs on this machine" in notes[0]
    assert "p99 @ openvino: not measured: this engine did not run here" in notes[2]


def test_too_few_runs_for_a_percentile_fail_with_a_note():
    few = evidence(latency={"openvino": Latency((1.0,) * 99)})
    verdict = judge(contract(), few)
    assert [check.name for check in verdict.failures] == ["p99 @ openvino"]
    assert explain(contract(), few) == (
        "p99 @ openvino: not measured: 99 runs cannot support it; set `measure.runs` to 100 or more",
    )


def test_a_class_without_labels_fails_the_term_that_asks_for_it():
    absent = evidence(reference=REFERENCE | {"AP/car": NAN}, metrics={"ort": QUANTIZED | {"AP/car": NAN}})
    verdict = judge(contract(metric="AP/car"), absent)
    assert [check.name for check in verdict.failures] == ["AP/car @ ort", "AP/car drop @ ort"]
    assert "the validation labels hold no such object" in explain(contract(metric="AP/car"), absent)[0]


def test_layers_that_an_engine_runs_otherwise_are_counted_and_named():
    other = evidence(mismatches={"trt_rtx": ("a", "c")})
    assert [check.measured for check in judge(contract(), other).failures] == [2.0]
    assert explain(contract(), other) == ("layers as planned @ trt_rtx: not as planned: a, c",)


@pytest.mark.parametrize(("name", "nearest"), [("AP5", "AP50"), ("ap", "AP"), ("AP/Car", "AP/car"), ("mIoU", "AP")])
def test_an_unknown_metric_is_named_with_its_nearest(name, nearest):
    with pytest.raises(RecipeError, match=f"expected a metric of this task, got '{name}'; did you mean '{nearest}"):
        judge(contract(metric=name), evidence())


def test_without_any_metric_the_error_says_so():
    with pytest.raises(RecipeError, match="no metric was measured"):
        find_metric({}, "AP")


def test_a_contract_is_checked_before_the_work():
    names = detection_metric_names(("car", "person"))
    check_contract(contract(metric="AP/person"), names, Measure(runs=100))
    with pytest.raises(RecipeError, match=r"did you mean 'AP/person'\?"):
        check_contract(contract(metric="AP/persn"), names, Measure())
    with pytest.raises(RecipeError, match=r"measure\.runs: expected at least 1000 for p99.9, got 999"):
        check_contract(contract(percentile="p99.9"), names, Measure(runs=999))


def test_the_share_of_macs_weighs_layers_by_their_work():
    assert int8_share(LAYERS) == 0.75
    assert math.isnan(int8_share(()))


def test_only_int8_arithmetic_counts_as_int8():
    kinds = ("int8", "fp8", "int8 weights", "int4 weights", "int8 dynamic", "fp16", "bf16", "float")

    assert int8_share([LayerPlan(kind, "Conv", kind, "because", 10) for kind in kinds]) == 1 / len(kinds)


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_a_better_network_never_turns_a_kept_contract_into_a_broken_one(reference, value, more, limit):
    terms = Contract(accuracy=(AccuracyTerm(metric="AP", min=limit, max_drop=limit),))

    def passed(measured):
        return judge(terms, Evidence({"AP": reference}, {"ort": {"AP": measured}})).passed

    assert passed(max(value, more)) or not passed(value)
