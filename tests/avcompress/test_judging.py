"""What is pure in judging finished networks: regressions, candidates, differences, what can be judged."""

from types import SimpleNamespace
from typing import Any

import pytest

from avcompress.candidates import find_candidates
from avcompress.contract import AccuracyTerm, Contract, DriftTerm, Int8Term, LatencyTerm, Measure
from avcompress.differences import file_differences, layer_differences, setting_differences
from avcompress.findings import Findings
from avcompress.judgeable import judgeable
from avcompress.measuring import Measured
from avcompress.recipe import Segmentation
from avcompress.regressions import regressions
from avcompress.spec import Check, LayerPlan, RecipeError, Verdict
from engines.manifest import FileEntry
from validation.comparison import Comparison, Estimate, SliceResult
from validation.drift import LayerDrift
from validation.latency import ScenarioResult
from validation.predictions import MaskPredictions


def timed(*samples_ms: float) -> ScenarioResult:
    return ScenarioResult("single_stream", Measure(), samples_ms)


def measured(result: ScenarioResult, beside: ScenarioResult | None = None) -> Measured:
    return Measured(MaskPredictions((), ()), {}, {"single_stream": result}, beside)


def findings(drop: tuple[float, float, float], engines: dict[str, Measured], **more: Any) -> Findings:
    """Only what the pure functions read; `drop` of mIoU with its ends, from a reference of 0.7."""
    found = SliceResult(
        10,
        10,
        {"mIoU": Estimate(0.7, 0.6, 0.8), "IoU/road": Estimate(0.9, 0.8, 1.0)},
        {"mIoU": Estimate(0.7 - drop[0], 0, 1), "IoU/road": Estimate(0.1, 0, 1)},
        {"mIoU": Estimate(*drop), "IoU/road": Estimate(0.8, 0.7, 0.9)},
    )
    trial = SimpleNamespace(task=Segmentation(kind="segmentation"), contract=more.pop("contract", SHARE))
    last = list(engines)[-1]
    comparisons = {last: Comparison({"all": found}, 100, 0.95)}
    return Findings(trial, None, engines[next(iter(engines))], engines, comparisons, **more)  # type: ignore[arg-type]


SHARE = Contract(int8=Int8Term(min_macs=0.5))
STEADY = [5.0] * 300


def test_only_a_proven_loss_of_all_classes_is_a_regression() -> None:
    engines = {"A": measured(timed(*STEADY)), "B": measured(timed(*STEADY))}
    by_chance = regressions(findings((0.01, -0.01, 0.03), engines), "A")
    proven = regressions(findings((0.02, 0.01, 0.03), engines), "A")

    assert [(check.name, check.passed) for check in by_chance] == [
        ("mIoU drop @ B", True), ("p50 @ B", True), ("p99 @ B", True),
    ]  # fmt: skip
    assert [check.passed for check in proven] == [False, True, True]
    assert by_chance[0].note == proven[0].note == "lost most: IoU/road by 0.8000"


def test_a_percentile_is_a_regression_where_its_bounds_lie_above_the_old_ones() -> None:
    tail = [5.0] * 280 + [60.0] * 20
    engines = {"A": measured(timed(*STEADY)), "B": measured(timed(*tail))}
    checks = {check.name: check for check in regressions(findings((0, 0, 0), engines), "A")}

    assert checks["p50 @ B"].passed
    assert not checks["p99 @ B"].passed
    assert (checks["p99 @ B"].measured, checks["p99 @ B"].limit) == (60.0, 5.0)


def test_layers_are_held_to_a_limit_where_one_is_given() -> None:
    drift = (LayerDrift("conv1", "x", 30.0, 1, 0, 1), LayerDrift("conv2", "y", 8.0, 1, 0, 1))
    engines = {"A": measured(timed()), "B": measured(timed())}
    *_, check = regressions(findings((0, 0, 0), engines, drift=drift), "A", 10.0)

    assert (check.passed, check.measured) == (False, 8.0)
    assert check.note == "first below: conv2, 8.0 dB"


def test_the_front_holds_what_nothing_else_beats_in_accuracy_and_latency() -> None:
    contract = Contract(latency=(LatencyTerm(percentile="p50", deadline_ms=10, engine="openvino"),))
    engines = {"openvino": measured(timed(*[4.0] * 100), timed(*[9.0] * 100))}
    verdict = Verdict((Check("p50 @ openvino", 4.0, "<=", 10.0, "ms", engine="openvino"),))
    slower, faster = find_candidates(findings((0.1, 0, 0.2), engines, contract=contract), verdict, {"openvino": 7})

    assert (slower.name, slower.accuracy, slower.latency_ms, slower.on_front) == ("float, openvino", 0.7, 9.0, True)
    assert (faster.name, faster.latency_ms, faster.size_bytes, faster.on_front, faster.passed) == (
        "openvino", 4.0, 7, True, True,
    )  # fmt: skip
    beaten = find_candidates(findings((-0.1, 0, 0.2), engines, contract=contract), verdict, {})
    assert [each.on_front for each in beaten] == [False, True]


def test_terms_that_cannot_be_judged_are_left_out_and_said() -> None:
    contract = Contract(
        accuracy=(AccuracyTerm(metric="AP", min=0.1),),
        latency=(LatencyTerm(deadline_ms=1, engine="trt"), LatencyTerm(deadline_ms=1, engine="ort")),
        drift=DriftTerm(min_sqnr_db=1),
        int8=Int8Term(min_macs=0.5),
    )
    whole, none = judgeable(contract, None, layers=True)
    engine, notes = judgeable(contract, ["ort"], layers=False)

    assert (whole, none) == (contract, ())
    assert [term.engine for term in engine.latency] == ["ort"]
    assert (engine.drift, engine.int8) == (None, None)
    assert [note.removeprefix("not judged here: ") for note in notes] == [
        "deadlines on trt", "error by layer (drift)", "the share of INT8",
    ]  # fmt: skip
    with pytest.raises(RecipeError, match="got only the share of INT8"):
        judgeable(SHARE, ["ort"], layers=False)


def test_files_and_layers_differ_where_their_content_or_precision_does() -> None:
    one, other = FileEntry(sha256="0" * 64, size_bytes=1), FileEntry(sha256="1" * 64, size_bytes=2)
    files = file_differences({"a": one, "b": one, "c": one}, {"a": one, "b": other, "d": other})
    layers = layer_differences(
        (LayerPlan("x", "Conv", "int8", "", 1), LayerPlan("y", "Conv", "int8", "", 1)),
        (LayerPlan("x", "Conv", "int8", "", 1), LayerPlan("y", "Conv", "float", "", 1)),
    )

    assert [(each.name, each.a_bytes, each.b_bytes) for each in files] == [
        ("b", 1, 2), ("c", 1, None), ("d", None, 2),
    ]  # fmt: skip
    assert [(each.name, each.a, each.b) for each in layers] == [("y", "int8", "float")]
    assert setting_differences(None, None) == ()
