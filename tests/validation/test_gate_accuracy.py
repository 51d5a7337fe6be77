import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avcompress.contract import AccuracyTerm
from avcompress.spec import RecipeError
from validation.comparison import Comparison, Estimate, SliceResult, Thresholds
from validation.gate_accuracy import accuracy_checks, require_name

NAN = math.nan


def slice_of(reference, network, half=0.02, objects=10):
    """A slice whose intervals reach `half` to both sides of every figure."""

    def around(value):
        return Estimate(value, value - half, value + half)

    less = ("false_alarms", "ece")
    drop = {
        name: around((network[name] - value) if name.partition("/")[0] in less else value - network[name])
        for name, value in reference.items()
    }
    return SliceResult(
        10,
        objects,
        {name: around(value) for name, value in reference.items()},
        {name: around(value) for name, value in network.items()},
        drop,
    )


def comparison(**slices):
    return Comparison(slices, 1000, 0.95)


ALL = slice_of(
    {"AP": 0.30, "AP/car": 0.40, "AP/person": 0.20, "false_alarms": 0.5},
    {"AP": 0.29, "AP/car": 0.40, "AP/person": 0.10, "false_alarms": 0.8},
)
FAR = slice_of(
    {"AP": 0.20, "AP/car": 0.20, "AP/person": NAN, "false_alarms": 0.0},
    {"AP": 0.05, "AP/car": 0.05, "AP/person": NAN, "false_alarms": 0.0},
)
BOTH = {"ort": Comparison({"all": ALL, "distance:far": FAR, "distance:near": ALL}, 1000, 0.95)}


def only(term, comparisons=None):
    (check,) = accuracy_checks(AccuracyTerm(**term), BOTH if comparisons is None else comparisons)
    return check


def test_a_drop_from_30_to_29_keeps_a_limit_of_one_hundredth():
    check = only({"metric": "AP", "max_drop": 0.01})

    assert (check.name, check.measured, check.passed) == ("AP drop @ ort", 0.01, True)


def test_the_three_rules_judge_three_values_of_one_interval():
    kept = {
        rule: only({"metric": "AP", "max_drop": 0.01, "decide": rule}).judged
        for rule in ("point", "proven_kept", "unless_proven_broken")
    }

    assert kept == pytest.approx({"point": 0.01, "proven_kept": 0.03, "unless_proven_broken": -0.01})
    floors = {
        rule: only({"metric": "AP", "min": 0.28, "decide": rule}).judged
        for rule in ("point", "proven_kept", "unless_proven_broken")
    }
    assert floors == pytest.approx({"point": 0.29, "proven_kept": 0.27, "unless_proven_broken": 0.31})


def test_what_is_better_the_smaller_it_is_has_a_ceiling_and_rises():
    ceiling = only({"metric": "false_alarms", "max": 0.7})
    rise = only({"metric": "false_alarms", "max_drop": 0.2})

    assert (ceiling.name, ceiling.measured, ceiling.passed) == ("false_alarms @ ort", 0.8, False)
    assert (rise.name, rise.measured, rise.passed) == ("false_alarms rise @ ort", 0.3, False)


def test_a_relative_drop_is_a_share_of_the_reference():
    check = only({"metric": "AP/person", "max_drop_relative": 0.5})

    assert (check.name, check.measured, check.passed) == ("AP/person relative drop @ ort", 0.5, True)
    assert (check.low, check.high) == (0.4, 0.6)


def test_a_gain_is_a_drop_seen_from_the_other_side_and_decided_by_its_own_worst_end():
    better = {"ort": comparison(all=slice_of({"AP": 0.3, "ece": 0.4}, {"AP": 0.35, "ece": 0.3}, half=0.02))}
    gain = only({"metric": "AP", "min_gain": 0.04}, better)
    proven = only({"metric": "AP", "min_gain": 0.04, "decide": "proven_kept"}, better)
    fall = only({"metric": "ece", "min_gain": 0.1}, better)

    assert (gain.name, gain.sense, gain.measured, gain.passed) == ("AP gain @ ort", ">=", 0.05, True)
    assert (gain.low, gain.high) == (0.03, 0.07)
    assert (proven.judged, proven.passed) == (0.03, False)
    assert (fall.name, fall.measured, fall.passed) == ("ece fall @ ort", 0.1, True)


def test_of_a_reference_of_nothing_no_loss_is_kept_and_any_loss_is_not():
    nothing = slice_of({"AP": 0.0, "false_alarms": 0.0}, {"AP": 0.0, "false_alarms": 0.1}, half=0.0)
    comparisons = {"ort": comparison(all=nothing)}

    assert only({"metric": "AP", "max_drop_relative": 0.0}, comparisons).passed
    assert not only({"metric": "false_alarms", "max_drop_relative": 1.0}, comparisons).passed


def test_a_slice_is_judged_alone():
    check = only({"metric": "AP", "slice": "distance:far", "max_drop": 0.1})

    assert (check.name, check.measured) == ("AP in distance:far drop @ ort", 0.15)
    assert (check.engine, check.metric, check.slice) == ("ort", "AP", "distance:far")


def test_a_slice_that_is_not_there_fails_with_those_that_are():
    check = only({"metric": "AP", "slice": "weather:fog", "min": 0.1})

    assert not check.passed
    assert check.note == ("not measured: no slice weather:fog is in the data; there are: distance:far, distance:near")


def test_a_pattern_is_one_check_of_the_worst_and_names_what_else_is_broken():
    check = only({"metric": "AP/*", "max_drop": 0.05})
    everywhere = only({"metric": "AP/*", "slice": "distance:*", "max_drop": 0.05})

    assert (check.name, check.measured, check.metric) == ("AP/* drop @ ort", 0.1, "AP/person")
    assert check.note == "worst: AP/person (0.1000)"
    assert (everywhere.name, everywhere.metric, everywhere.slice) == (
        "AP/* in distance:* drop @ ort", "AP/car", "distance:far",
    )  # fmt: skip
    assert everywhere.note == "worst: AP/car in distance:far (0.1500); also broken: AP/person in distance:near"


def test_what_the_labels_do_not_hold_breaks_no_pattern_but_alone_is_not_kept():
    kept = only({"metric": "AP/*", "slice": "distance:far", "max_drop": 0.2})
    absent = only({"metric": "AP/person", "slice": "distance:far", "max_drop": 0.2})
    pattern = only({"metric": "AP/p*", "slice": "distance:far", "max_drop": 0.2})

    assert (kept.passed, kept.metric) == (True, "AP/car")
    for check in (absent, pattern):
        assert not check.passed
        assert check.note == "not measured: the validation labels hold no such object"


@pytest.mark.parametrize(
    ("metric", "reason"),
    [("AP", "too few images hold it; add some, or"), ("AP_small", "it has one in the whole set alone;")],
)
def test_a_rule_on_an_interval_that_is_not_there_fails_and_says_why(metric, reason):
    figure = {metric: Estimate(0.3, NAN, NAN)}
    part = SliceResult(4, 4, figure, figure, {metric: Estimate(0.0, NAN, NAN)})
    comparisons = {"ort": Comparison({"all": part, "light:night": part}, 100, 0.95)}
    term = {"metric": metric, "slice": "light:night", "max_drop": 0.1, "decide": "proven_kept"}
    check = only(term, comparisons)

    assert not check.passed
    assert check.note == f"no interval: {reason} decide by the point"


def test_a_broken_line_names_the_classes_and_slices_that_lost_most():
    check = only({"metric": "AP", "max_drop": 0.005})

    assert check.note == "lost most: AP in distance:far by 0.1500, AP/person by 0.1000"


def test_a_class_that_is_lost_in_too_few_images_to_prove_it_is_named_though_the_line_is_kept():
    figures = {
        "AP/car": Estimate(0.4, 0.3, 0.5),
        "AP/stop sign": Estimate(0.3, NAN, NAN),
        "AP/bus": Estimate(0.2, 0, 1),
    }
    drops = {"AP/car": Estimate(0.0, 0.0, 0.0), "AP/stop sign": Estimate(0.3, NAN, NAN), "AP/bus": Estimate(0.2, 0, 1)}
    comparisons = {"ort": comparison(all=SliceResult(10, 10, figures, figures, drops))}
    check = only({"metric": "AP/*", "max_drop": 0.05, "decide": "unless_proven_broken"}, comparisons)

    assert check.passed
    assert check.note.endswith(
        "; beyond the limit, but too few images to prove it: AP/stop sign (0.3000), AP/bus (0.2000)"
    )


def at_threshold(recall, restored):
    """Precision fell; `recall` is the reference's, `restored` the network's where precision is the same again."""
    found = slice_of({"precision": 0.7, "recall": recall, "ece": 0.1}, {"precision": 0.6, "recall": recall, "ece": 0.3})
    return {"ort": Comparison({"all": found}, 1000, 0.95, Thresholds(0.3, 0.5, 0.7, restored))}


@pytest.mark.parametrize("term", [{"metric": "precision", "max_drop": 0.01}, {"metric": "ece", "max_drop": 0.01}])
def test_scores_are_said_to_have_moved_only_where_another_threshold_makes_good_what_was_lost(term):
    moved, worse = only(term, at_threshold(0.8, 0.8)), only(term, at_threshold(0.8, 0.1))

    again = "from 0.500 on the precision is the reference's again"
    assert moved.note == f"scores have moved: {again} (recall 0.8000), not from 0.3 on"
    assert worse.note == f"{again}, but recall is 0.1000 there, not 0.8000"


def test_a_network_that_detects_nothing_is_said_to():
    found = slice_of({"AP": 0.3, "recall": 0.8, "false_alarms": 0.5}, {"AP": 0.0, "recall": 0.0, "false_alarms": 0.0})
    check = only({"metric": "AP", "max_drop": 0.01}, {"ort": comparison(all=found)})

    assert check.note == "nothing is detected at the deployed threshold"


def test_a_figure_that_should_be_small_rose():
    reference, network = {"false_alarms": 0.5, "false_alarms/car": 0.2}, {"false_alarms": 0.8, "false_alarms/car": 0.5}
    check = only({"metric": "false_alarms", "max_drop": 0.1}, {"ort": comparison(all=slice_of(reference, network))})

    assert check.note == "rose most: false_alarms/car by 0.3000"


def test_without_an_engine_nothing_is_kept():
    check = only({"metric": "AP", "min": 0.0}, {})

    assert (check.name, check.passed) == ("AP @ no engine", False)
    assert "no engine of this recipe runs on this machine" in check.note


@pytest.mark.parametrize(("name", "nearest"), [("AP5", "AP"), ("AP/Car", "AP/car"), ("fals_alarms", "false_alarms")])
def test_a_name_that_is_not_there_is_told_with_its_nearest(name, nearest):
    with pytest.raises(RecipeError, match=rf"metric: expected a metric, got '{name}'; did you mean '{nearest}'"):
        require_name(name, ALL.network, "metric", "a metric")


@given(
    st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 0.2), st.floats(0, 1),
    st.sampled_from(["point", "proven_kept", "unless_proven_broken"]),
)  # fmt: skip
def test_a_better_network_never_breaks_what_a_worse_one_keeps(reference, value, more, half, limit, decide):
    term = AccuracyTerm(metric="AP", min=limit, max_drop=limit, max_drop_relative=limit, min_gain=limit, decide=decide)

    def kept(measured):
        found = {"ort": comparison(all=slice_of({"AP": reference}, {"AP": measured}, half))}
        return all(check.passed for check in accuracy_checks(term, found))

    assert kept(max(value, more)) or not kept(value)


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 0.2), st.floats(0, 1))
def test_proven_kept_is_the_strictest_rule_and_unless_proven_broken_the_mildest(reference, value, half, limit):
    found = {"ort": comparison(all=slice_of({"AP": reference}, {"AP": value}, half))}

    def kept(decide):
        term = AccuracyTerm(metric="AP", min=limit, max_drop=limit, min_gain=limit, decide=decide)
        return [check.passed for check in accuracy_checks(term, found)]

    for proven, point, mild in zip(*map(kept, ("proven_kept", "point", "unless_proven_broken")), strict=True):
        assert proven <= point <= mild
