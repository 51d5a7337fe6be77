import math

import pytest

from avcompress.contract import AccuracyTerm, Contract, DriftTerm, Int8Term, LatencyTerm, Measure, Validation
from avcompress.spec import Check, LayerPlan, RecipeError, Verdict, check_text
from validation.comparison import Comparison, Estimate, SliceResult
from validation.contract_check import check_contract, check_slices
from validation.detection import box_metric_names
from validation.drift import LayerDrift
from validation.gates import Evidence, explain, int8_share, judge
from validation.latency import ScenarioResult

NAN = math.nan
LAYERS = (LayerPlan("a", "Conv", "int8", "weighted", 300), LayerPlan("b", "Conv", "float", "head", 100))


def comparison(network, reference=0.30):
    figures = {name: Estimate(value, NAN, NAN) for name, value in {"AP": network, "AP/car": network + 0.1}.items()}
    before = {name: Estimate(reference + 0.1 * ("/" in name), NAN, NAN) for name in figures}
    drop = {name: Estimate(before[name].value - figures[name].value, NAN, NAN) for name in figures}
    return Comparison({"all": SliceResult(10, 20, before, figures, drop)}, 100, 0.95)


def timed(*samples_ms, dropped=0, scenario="single_stream"):
    return ScenarioResult(scenario, Measure(), tuple(map(float, samples_ms)), dropped_s=(0.0,) * dropped)


def layer(name, sqnr_db):
    return LayerDrift(name, f"{name}_out", sqnr_db, 1.0, 0.1, 1.0)


def evidence(**changes):
    values = {
        "comparisons": {"openvino": comparison(0.29), "ort": comparison(0.29)},
        "latency": {"openvino": {"single_stream": timed(*range(1, 101))}},
        "layers": LAYERS,
        "mismatches": {"trt_rtx": ()},
    }
    return Evidence(**{**values, **changes})


def contract(metric="AP", **deadline):
    return Contract(
        accuracy=(AccuracyTerm(metric=metric, min=0.25, max_drop=0.01),),
        latency=(LatencyTerm(**{"percentile": "p99", "deadline_ms": 99.0, **deadline}),),
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
    assert explain(verdict) == ()


def test_one_engine_that_falls_short_fails_the_verdict():
    worse = {"openvino": comparison(0.29), "ort": comparison(0.2)}
    verdict = judge(contract(), evidence(comparisons=worse))
    assert not verdict.passed
    assert [check.name for check in verdict.failures] == ["AP @ ort", "AP drop @ ort"]


def test_an_empty_verdict_and_nan_never_pass():
    assert not Verdict(()).passed
    assert not Verdict((Check("x", NAN, ">=", 0.0), Check("y", 1.0, ">=", 0.0))).passed
    for sense in ("<=", ">=", "=="):
        for decide in ("point", "proven_kept", "unless_proven_broken"):
            assert not Check("x", NAN, sense, NAN).passed
            assert not Check("x", NAN, sense, 0.5, low=0.0, high=1.0, decide=decide).passed
            assert sense == "==" or decide == "point" or not Check("x", 0.5, sense, 0.5, decide=decide).passed


@pytest.mark.parametrize(
    ("sense", "decide", "judged"),
    [
        (">=", "point", 0.5), (">=", "proven_kept", 0.4), (">=", "unless_proven_broken", 0.6),
        ("<=", "point", 0.5), ("<=", "proven_kept", 0.6), ("<=", "unless_proven_broken", 0.4),
    ],
)  # fmt: skip
def test_the_rule_says_which_end_of_the_interval_is_judged(sense, decide, judged):
    check = Check("x", 0.5, sense, judged, low=0.4, high=0.6, decide=decide)

    assert (check.judged, check.passed) == (judged, True)
    worse = judged - 1e-9 if sense == "<=" else judged + 1e-9
    assert not Check("x", 0.5, sense, worse, low=0.4, high=0.6, decide=decide).passed


def test_a_check_tells_what_it_expected_and_what_decided():
    check = Check("AP", 0.5, ">=", 0.45, low=0.4, high=0.6, decide="proven_kept")

    assert check_text(check) == ("expected >= 0.4500, measured 0.5000 [0.4000, 0.6000], 0.4000 decides (proven_kept)")
    assert check_text(Check("p99", NAN, "<=", 8.0, "ms")) == "expected <= 8 ms, not measured"


def test_terms_on_engines_that_did_not_run_fail_and_say_why():
    verdict = judge(contract(), Evidence())
    assert not any(check.passed for check in verdict.checks)
    assert all(math.isnan(check.measured) for check in verdict.checks)
    notes = explain(verdict)
    assert len(notes) == len(verdict.checks)
    assert "AP @ no engine: not measured: no engine of this recipe runs on this machine" in notes[0]
    assert "p99 @ openvino: not measured: this engine did not run here" in notes[2]


def test_too_few_runs_for_a_percentile_fail_with_a_note():
    verdict = judge(contract(), evidence(latency={"openvino": {"single_stream": timed(*[1.0] * 99)}}))
    assert [check.name for check in verdict.failures] == ["p99 @ openvino"]
    assert "99 images cannot support p99; measure 100 or more" in verdict.failures[0].note


def test_a_tail_is_caught_that_the_median_does_not_show():
    spoilt = timed(*[5.0] * 998, 60.0, 60.0)
    terms = Contract(
        latency=(
            LatencyTerm(percentile="p50", deadline_ms=10),
            LatencyTerm(percentile="p99.9", deadline_ms=10),
            LatencyTerm(deadline_ms=10, max_miss_rate=0.001),
        )
    )
    verdict = judge(terms, Evidence(latency={"openvino": {"single_stream": spoilt}}))

    assert [check.name for check in verdict.failures] == ["p99.9 @ openvino", "miss rate of 10 ms @ openvino"]
    assert verdict.failures[1].note == "2 of 1000 images later than 10 ms"


def test_a_dropped_image_misses_its_deadline():
    stream = timed(*[5.0] * 99, dropped=1, scenario="constant_stream")
    term = LatencyTerm(deadline_ms=10, max_miss_rate=0.01, scenario="constant_stream")
    (check,) = judge(Contract(latency=(term,)), Evidence(latency={"openvino": {"constant_stream": stream}})).checks

    assert (check.name, check.measured) == ("miss rate of 10 ms, constant_stream @ openvino", 0.01)
    assert check.passed
    assert check.low < 0.01 < check.high


def test_the_first_layer_beyond_the_limit_is_named():
    drifts = (layer("conv1", 40.0), layer("conv2", 12.0), layer("conv3", 9.0))
    term = Contract(drift=DriftTerm(min_sqnr_db=15.0))
    (check,) = judge(term, Evidence(drift=drifts)).checks
    spared = Contract(drift=DriftTerm(min_sqnr_db=15.0, layers=("conv1",)))

    assert (check.name, check.measured, check.passed) == ("SQNR of every layer", 9.0, False)
    assert "the first is conv2, 12.0 dB" in check.note
    assert judge(spared, Evidence(drift=drifts)).passed


def test_a_layer_of_nan_is_beyond_every_limit_and_equal_layers_are_within():
    term = Contract(drift=DriftTerm(min_sqnr_db=15.0))

    assert not judge(term, Evidence(drift=(layer("a", NAN), layer("b", 50.0)))).passed
    (check,) = judge(term, Evidence(drift=(layer("a", math.inf),))).checks
    assert (check.passed, check.measured) == (True, 300.0)
    assert not judge(term, Evidence()).passed


def test_layers_that_an_engine_runs_otherwise_are_counted_and_named():
    verdict = judge(contract(), evidence(mismatches={"trt_rtx": ("a", "c")}))
    assert [check.measured for check in verdict.failures] == [2.0]
    assert explain(verdict) == ("layers as planned @ trt_rtx: not as planned: a, c",)


@pytest.mark.parametrize(("name", "nearest"), [("ap", "AP"), ("AP/Car", "AP/car"), ("mIoU", "AP")])
def test_an_unknown_metric_is_named_with_its_nearest(name, nearest):
    with pytest.raises(RecipeError, match=f"expected a metric of this task, got '{name}'; did you mean '{nearest}"):
        judge(contract(metric=name), evidence())


def test_a_contract_is_checked_before_the_work():
    names = box_metric_names(("car", "person"), kitti=False)
    check_contract(contract(metric="AP/person"), names, Measure(runs=100))
    check_contract(contract(metric="recall/*"), names, Measure(runs=100))
    with pytest.raises(RecipeError, match=r"accuracy\[0\].metric.*did you mean 'AP/person'\?"):
        check_contract(contract(metric="AP/persn"), names, Measure())
    with pytest.raises(RecipeError, match=r"expected a metric of this task, got 'AP40_hard'"):
        check_contract(contract(metric="AP40_hard"), names, Measure())


@pytest.mark.parametrize(
    ("deadline", "what", "needed"),
    [
        ({"percentile": "p99.9"}, "p99.9", 1000),
        ({"percentile": "p99", "decide": "proven_kept"}, "p99 to be proven_kept", 299),
        ({"percentile": None, "max_miss_rate": 0.001}, "a miss rate of 0.001", 1000),
        ({"percentile": "p99.9", "max_miss_rate": 0.1}, "p99.9", 1000),
        ({"percentile": "p50", "max_miss_rate": 0.001}, "a miss rate of 0.001", 1000),
    ],
)
def test_samples_that_are_too_few_for_a_deadline_are_refused_before_the_work(deadline, what, needed):
    names = box_metric_names(("car",), kitti=False)
    check_contract(contract(**deadline), names, Measure(runs=needed))
    with pytest.raises(RecipeError, match=rf"measure\.runs: expected at least {needed} for {what}, got {needed - 1}"):
        check_contract(contract(**deadline), names, Measure(runs=needed - 1))


def test_a_slice_that_the_data_do_not_have_is_refused_with_those_that_they_have():
    def check(name):
        terms = Contract(accuracy=(AccuracyTerm(metric="AP", slice=name, min=0.1),))
        check_slices(terms, ("all", "size:small", "weather:rain"), Validation(corruptions={"fog": (3,)}))

    for known in ("all", "size:small", "weather:*", "fog:3"):
        check(known)
    with pytest.raises(RecipeError, match=r"\(size:small, weather:rain, fog:3\), got 'size:smal'; did you mean"):
        check("size:smal")
    with pytest.raises(RecipeError, match=r"got 'fog:5'; did you mean 'fog:3'"):
        check("fog:5")
    with pytest.raises(RecipeError, match=r"got 'night:yes'; mend it, tag the data"):
        check("night:yes")


def test_the_share_of_macs_weighs_layers_by_their_work():
    assert int8_share(LAYERS) == 0.75
    assert math.isnan(int8_share(()))


def test_only_int8_arithmetic_counts_as_int8():
    kinds = ("int8", "fp8", "int8 weights", "int4 weights", "int8 dynamic", "fp16", "bf16", "float")

    assert int8_share([LayerPlan(kind, "Conv", kind, "because", 10) for kind in kinds]) == 1 / len(kinds)
