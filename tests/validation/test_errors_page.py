"""validation.errors_page: the analysis as a page and as JSON."""

from pathlib import Path

import pytest

from validation.errors import ErrorAnalysis, LayerError, Split
from validation.errors_page import render_errors, write_errors


def layer(name: str, own: float | None, gain: float | None = None, alone: float | None = None) -> LayerError:
    return LayerError(
        name=name,
        op="Conv",
        macs=10,
        own_db=own,
        weights_db=own,
        activations_db=None,
        depth_db=own,
        alone_db=alone,
        gain=gain,
    )


@pytest.fixture
def analysis() -> ErrorAnalysis:
    layers = (layer("early", 30), layer("bad", 10, gain=0.02), layer("</style><b>late", None, gain=-0.01))
    return ErrorAnalysis(
        recipe="net",
        metric="AP",
        images=2,
        sweep_images=2,
        budget_s=60,
        seconds=61,
        splits=(Split(part="all", output_db=12.34, metric=0.2831), Split(part="none", output_db=None)),
        layers=layers,
    )


def test_layers_come_by_what_they_cost(analysis: ErrorAnalysis) -> None:
    assert [found.name for found in analysis.worst] == ["bad", "</style><b>late", "early"]
    by_output = analysis.model_copy(update={"layers": (layer("a", 5, alone=40), layer("b", 30, alone=20))})
    assert [found.name for found in by_output.worst] == ["b", "a"]


def test_the_page_says_what_was_measured_and_escapes_names(analysis: ErrorAnalysis) -> None:
    page = render_errors(analysis)

    assert "0.2831" in page
    assert "12.3" in page
    assert "+0.0200" in page
    assert "&lt;/style&gt;&lt;b&gt;late" in page
    assert "<b>late" not in page
    assert "n/a" in page
    assert page.count("<svg") == 1
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_both_files_hold_the_same_facts(tmp_path: Path, analysis: ErrorAnalysis) -> None:
    write_errors(analysis, tmp_path)

    assert ErrorAnalysis.model_validate_json((tmp_path / "analysis.json").read_text()) == analysis
    assert (tmp_path / "analysis.html").read_text() == render_errors(analysis)
