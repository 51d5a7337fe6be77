import subprocess
import sys
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from validation.plots import latency_histogram

SAMPLES = (4.5 + np.random.default_rng(0).gamma(2, 0.1, 300)).tolist()


def words(svg):
    return ["".join(node.itertext()).strip() for node in ET.fromstring(svg).iter() if node.tag.endswith("}text")]  # noqa: S314


def test_it_shows_the_deadline_and_the_percentiles_in_the_pages_colours():
    svg = latency_histogram(SAMPLES, [("p50", 4.7), ("p99", 5.2)], 8.0)
    assert {"deadline 8", "p50 4.70", "p99 5.20", "milliseconds"} <= set(words(svg))
    assert "var(--accent)" in svg
    assert "var(--fail)" in svg
    assert "#0" not in svg
    assert "font-family" not in svg
    assert len(svg) < 60_000


def test_a_deadline_far_away_is_pointed_at():
    assert "deadline 1000 →" in words(latency_histogram(SAMPLES, (), 1000.0))


@pytest.mark.parametrize("samples", [[5.0], [5.0, 5.0], [0.0], [1e-4, 1e3]])
def test_odd_samples_can_be_drawn(samples):
    assert latency_histogram(samples, [("p50", samples[0])], 5.0).startswith("<svg")


def test_it_is_the_same_picture_every_time_and_ids_differ_by_identity():
    one = latency_histogram(SAMPLES, (), 8.0, "a")
    assert one == latency_histogram(SAMPLES, (), 8.0, "a")

    def ids(svg):
        return {node.get("id") for node in ET.fromstring(svg).iter() if node.get("id")}  # noqa: S314

    assert not ids(one) & ids(latency_histogram(SAMPLES, (), 8.0, "b"))


def test_matplotlib_is_only_imported_to_draw():
    code = "import sys, validation.page, validation.gates; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
