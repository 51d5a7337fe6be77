import math

import pytest

from avcompress.contract import LatencyTerm, Measure
from validation.latency import ScenarioResult, miss_rate_bounds, runs_needed, term_figures

MEASURE = Measure()


def result(samples, dropped=0):
    return ScenarioResult("constant_stream", MEASURE, tuple(map(float, samples)), dropped_s=(0.0,) * dropped)


def one(term, found, **options):
    (figure,) = term_figures(LatencyTerm(deadline_ms=20.0, **term), found, **options)
    return figure


@pytest.mark.parametrize(
    ("decide", "measured"), [("point", 297.0), ("proven_kept", 300.0), ("unless_proven_broken", 294.0)]
)
def test_a_rule_takes_the_estimate_or_the_end_on_its_side(decide, measured):
    figure = one({"percentile": "p99", "decide": decide}, result(range(1, 301)))

    # Bin(300, .99): P(X >= 294) = 0.967, P(X >= 295) = 0.918; P(X < 300) = 0.951, P(X < 299) = 0.802.
    assert (figure.value, figure.low, figure.high) == (297.0, 294.0, 300.0)
    assert (figure.name, figure.measured, figure.limit, figure.unit) == ("p99", measured, 20.0, "ms")
    assert figure.note == ""


@pytest.mark.parametrize("decide", ["point", "proven_kept", "unless_proven_broken"])
def test_too_few_images_for_a_percentile_are_no_figure_under_any_rule(decide):
    figure = one({"percentile": "p99.9", "decide": decide}, result(range(999)))

    assert all(math.isnan(value) for value in (figure.value, figure.low, figure.high, figure.measured))
    assert figure.note == (
        "not measured: 999 images cannot support p99.9; measure 1000 or more (`measure.runs`, --runs)"
    )


def test_an_upper_bound_takes_more_images_than_the_estimate():
    figure = one({"percentile": "p99.9", "decide": "proven_kept"}, result(range(1, 2995)))

    assert figure.value == 2992.0
    assert math.isnan(figure.measured)
    assert "2994 images cannot support an upper bound of p99.9 (95%); measure 2995 or more" in figure.note
    assert one({"percentile": "p99.9", "decide": "proven_kept"}, result(range(1, 2996))).measured == 2995.0


def test_a_term_without_a_percentile_is_on_p99_and_one_with_a_rate_is_not():
    assert one({}, result(range(100))).name == "p99"
    assert one({"max_miss_rate": 0.1}, result(range(100))).name == "miss rate"
    both = LatencyTerm(deadline_ms=20.0, percentile="p50", max_miss_rate=0.1)
    assert [figure.name for figure in term_figures(both, result(range(100)))] == ["p50", "miss rate"]


@pytest.mark.parametrize(("decide", "end"), [("point", None), ("proven_kept", 1), ("unless_proven_broken", 0)])
def test_dropped_images_are_misses(decide, end):
    figure = one({"max_miss_rate": 0.05, "decide": decide}, result([10] * 190 + [21] * 2, dropped=8))

    assert figure.value == 0.05
    assert (figure.low, figure.high) == miss_rate_bounds(10, 200)
    assert figure.measured == (0.05 if end is None else miss_rate_bounds(10, 200)[end])
    assert figure.note == "10 of 200 images later than 20 ms"


def test_a_percentile_that_falls_on_dropped_images_never_came():
    figure = one({"percentile": "p99"}, result([10] * 98, dropped=2))
    assert figure.measured == math.inf
    assert "dropped" in figure.note


def test_a_rate_is_a_claim_about_a_percentile_and_needs_as_many_images():
    figure = one({"max_miss_rate": 0.001}, result([10] * 999))
    assert math.isnan(figure.measured)
    assert "999 images cannot support a rate of 0.001; measure 1000 or more" in figure.note
    assert one({"max_miss_rate": 0.001}, result([10] * 1000)).measured == 0.0


def test_no_miss_proves_a_rate_from_the_number_that_the_note_names():
    few = one({"max_miss_rate": 0.01, "decide": "proven_kept"}, result([10] * 298))
    assert few.measured > 0.01
    assert few.note == "no miss in 298 images; 299 images without a miss would prove a rate of 0.01"
    assert one({"max_miss_rate": 0.01, "decide": "proven_kept"}, result([10] * 299)).measured <= 0.01


def test_nothing_measured_is_no_figure():
    assert one({}, None).note == "not measured: no image was timed"
    assert math.isnan(one({"max_miss_rate": 0.5}, result([])).measured)


@pytest.mark.parametrize(
    ("term", "runs"),
    [
        ({"percentile": "p99"}, 100),
        ({"percentile": "p99.9"}, 1000),
        ({"percentile": "p99.9", "decide": "proven_kept"}, 2995),
        ({"percentile": "p50", "decide": "proven_kept"}, 5),
        ({"max_miss_rate": 0.001}, 1000),
        ({"max_miss_rate": 0.01, "decide": "proven_kept"}, 299),
        ({"max_miss_rate": 0.0}, 1),
        ({"max_miss_rate": 0.0, "decide": "proven_kept"}, None),
        ({"max_miss_rate": 1.0, "decide": "proven_kept"}, 1),
        ({"percentile": "p50", "max_miss_rate": 0.001}, 1000),
    ],
)
def test_the_fewest_images_of_a_term_are_just_enough(term, runs):
    asked = LatencyTerm(deadline_ms=20.0, **term)
    assert runs_needed(asked) == runs
    if runs:
        assert all(figure.measured <= 20 for figure in term_figures(asked, result([1] * runs)))
    if runs and runs > 1:
        kept = [figure.measured <= figure.limit for figure in term_figures(asked, result([1] * (runs - 1)))]
        assert not all(kept)
