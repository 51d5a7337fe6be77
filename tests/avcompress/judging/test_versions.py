"""Two versions on one set of images: the checks of what is asked there, and what the report says."""

from types import SimpleNamespace

import pytest

from avcompress.contract import AccuracyTerm, Validation
from avcompress.judging.versions import Ground, Versions
from validation.comparison import Comparison, Estimate, SliceResult


def comparison(before: float, after: float) -> Comparison:
    def figure(value: float) -> dict[str, Estimate]:
        return {"AP": Estimate(value, value - 0.01, value + 0.01)}

    return Comparison({"all": SliceResult(7, 30, figure(before), figure(after), figure(before - after))}, 100, 0.95)


def versions(new: bool, *terms: dict, **figures: tuple[float, float]) -> Versions:
    source = SimpleNamespace(fingerprint="f00d")
    trial = SimpleNamespace(validation=Validation(), source=source)
    truth = SimpleNamespace(names=("a", "b"))
    asked = tuple(AccuracyTerm.model_validate(term) for term in terms)
    ground = Ground("fog" if new else "yolox", new, trial, truth, asked)
    return Versions(ground, {engine: comparison(*each) for engine, each in figures.items()})


def test_a_loss_beyond_the_bound_fails_on_the_engine_that_has_it():
    found = list(versions(False, {"metric": "AP", "max_drop": 0.01}, ort=(0.3, 0.295), openvino=(0.3, 0.28)).checks)

    assert [(check.name, check.passed) for check in found] == [
        ("old images, yolox: AP drop @ ort", True),
        ("old images, yolox: AP drop @ openvino", False),
    ]
    assert [check.domain for check in found] == ["yolox", "yolox"]
    assert found[1].measured == pytest.approx(0.02)
    assert (found[1].low, found[1].high) == pytest.approx((0.01, 0.03))


def test_a_gain_counts_from_the_version_before():
    terms = ({"metric": "AP", "min_gain": 0.05}, {"metric": "AP", "min_gain": 0.05, "decide": "proven_kept"})
    point, proven = versions(True, *terms, ort=(0.1, 0.155)).checks

    assert (point.name, point.passed, proven.passed) == ("new images, fog: AP gain @ ort", True, False)


def test_without_an_engine_that_both_have_nothing_is_kept():
    (check,) = versions(False, {"metric": "AP", "max_drop": 0.01}).checks

    assert not check.passed


def test_the_report_has_both_versions_figures():
    facts = versions(True, {"metric": "AP", "min": 0.1}, ort=(0.1, 0.2)).facts

    assert (facts.name, facts.new, facts.images, facts.fingerprint) == ("fog", True, 2, "f00d")
    part = facts.comparisons["ort"].slices[0]
    assert (part.reference["AP"].value, part.network["AP"].value, part.drop["AP"].value) == (0.1, 0.2, -0.1)
