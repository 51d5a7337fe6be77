import subprocess
import sys
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from validation.plots import LayerPoint, Point, Timeline, latency_plot, layer_profile, moves_histogram, pareto_plot

SAMPLES = (4.5 + np.random.default_rng(0).gamma(2, 0.1, 300)).tolist()


def words(svg):
    return ["".join(node.itertext()).strip() for node in ET.fromstring(svg).iter() if node.tag.endswith("}text")]  # noqa: S314


def plot(samples=SAMPLES, marks=(), deadlines=(), dropped=(), identity="latency"):
    arrivals = np.arange(len(samples)) / 10
    return latency_plot(Timeline(arrivals, samples, dropped, marks, deadlines), identity)


def strokes(svg, variable):
    """How many subpaths are drawn in a colour."""
    root = ET.fromstring(svg)  # noqa: S314
    drawn = (node for node in root.iter() if variable in (node.get("style") or "") and node.tag.endswith("}path"))
    return sum((node.get("d") or "").count("M") for node in drawn)


def test_it_shows_the_deadline_and_the_percentiles_in_the_pages_colours():
    svg = plot(marks=[("p50", 4.7), ("p99", 5.2)], deadlines=[8.0])
    assert {"deadline 8", "p50 4.70", "p99 5.20", "milliseconds"} <= set(words(svg))
    assert "var(--accent)" in svg
    assert "var(--fail)" in svg
    assert "#0" not in svg
    assert "font-family" not in svg
    assert len(svg) < 60_000


def test_every_image_is_drawn_and_late_and_dropped_ones_in_the_colour_of_failure():
    bare = strokes(plot(deadlines=[8.0]), "--fail")
    late = strokes(plot([*SAMPLES, 9.0, 9.5], deadlines=[8.0]), "--fail")
    dropped = strokes(plot(deadlines=[8.0], dropped=[0.35, 0.75, 0.95]), "--fail")
    assert (late - bare, dropped - bare) == (2, 3)
    assert strokes(plot(), "--accent") >= len(SAMPLES)


def test_many_images_become_spans_and_the_late_ones_stay():
    many = np.tile(SAMPLES, 20)
    few = strokes(plot(many, deadlines=[8.0]), "--fail")
    many[5555] = 8.2
    svg = plot(many, deadlines=[8.0])
    assert strokes(svg, "--fail") - few == 1
    assert len(svg) < 120_000


def test_a_deadline_far_away_is_pointed_at():
    assert "deadline 1000 ↑" in words(plot(deadlines=[1000.0]))


def test_names_of_percentiles_that_lie_close_do_not_collide():
    svg = plot(marks=[("p50", 4.7), ("p90", 4.7), ("p99", 4.71)])
    texts = [node for node in ET.fromstring(svg).iter() if node.tag.endswith("}text")]  # noqa: S314
    lines = [float(node.get("y")) for node in texts if "".join(node.itertext()).startswith("p")]
    assert min(np.diff(sorted(lines))) > 9


@pytest.mark.parametrize("samples", [[5.0], [5.0, 5.0], [0.0], [1e-4, 1e3]])
def test_odd_samples_can_be_drawn(samples):
    assert plot(samples, [("p50", samples[0])], [5.0]).startswith("<svg")


def test_it_is_the_same_picture_every_time_and_ids_differ_by_identity():
    one = plot(identity="a")
    assert one == plot(identity="a")

    def ids(svg):
        return {node.get("id") for node in ET.fromstring(svg).iter() if node.get("id")}  # noqa: S314

    assert not ids(one) & ids(plot(identity="b"))


def test_the_first_layer_below_the_bound_is_named_and_every_engine_has_its_times():
    layers = [LayerPoint(f"layer{i}", "int8", db, {"ort": 0.1 * i, "trt": 0.2}) for i, db in enumerate((30, 9.0, None))]
    told = words(layer_profile(layers, 10.0, "layer1"))
    assert {"first below: layer1", "10 dB", "ms, ort", "ms, trt", "signal to noise, dB"} <= set(told)
    alone = words(layer_profile([LayerPoint("a", "", None, {"ort": 0.1})], None, ""))
    assert "signal to noise, dB" not in alone


def test_the_front_is_a_line_and_candidates_are_named_exactly():
    points = [Point("small", 2.0, 0.284, True, False), Point("large", 4.0, 0.286, True, True)]
    told = words(pareto_plot(points, "AP", 3.0, 0.28))
    assert {"small", "large", "AP", "milliseconds", "0.282"} <= set(told)


@pytest.mark.parametrize("name", ["$\\frac{", "<b>", "层"])
def test_names_are_written_as_they_are(name):
    assert f"first below: {name}" in words(layer_profile([LayerPoint(name, "int8", 9.0, {"ort": 0.1})], 10.0, name))
    assert name in words(pareto_plot([Point(name, 2.0, 0.284, True, False)] * 2, "AP", None, None))


def test_a_long_name_is_written_by_its_end():
    name = "/backbone/backbone/dark2/dark2.0/conv/Conv"
    told = words(layer_profile([LayerPoint(name, "int8", 9.0, {})], 10.0, name))
    assert f"first below: …{name[-35:]}" in told


def test_moves_of_scores_are_split_at_no_change():
    told = words(moves_histogram([-0.2, -0.1, 0.0, 0.1], [1, 5, 2]))
    assert {"← less sure", "surer →"} <= set(told)


def test_matplotlib_is_only_imported_to_draw():
    code = "import sys, validation.page.render, validation.gates; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
