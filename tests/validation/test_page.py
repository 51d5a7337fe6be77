import re
from html.parser import HTMLParser

import pytest

from avcompress.spec import Check, OutputError
from validation.page import (
    absent_classes,
    change,
    count,
    duration,
    headline,
    key_figures,
    layer_line,
    metric,
    metric_rows,
    ms,
    reasons,
    render_html,
    share,
    size,
    write_report,
)
from validation.report import Accuracy, EngineFacts, LayerCounts, LayerFacts

NAN = float("nan")
VOID_TAGS = {"meta", "link", "image", "use", "rect", "path", "circle", "br", "img"}


class Page(HTMLParser):
    """Collects references, text and unbalanced tags."""

    def __init__(self, html):
        super().__init__()
        self.references, self.ids, self.open, self.wrong, self.words = [], [], [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.ids += [value for name, value in attrs if name == "id"]
        self.references += [value for name, value in attrs if name in ("href", "src", "xlink:href")]
        if tag not in VOID_TAGS:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID_TAGS:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag in VOID_TAGS:
            return
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def test_the_page_needs_nothing_but_itself(make_report, pictures):
    html = render_html(make_report(), pictures)
    page = Page(html)
    assert page.references
    assert all(reference.startswith(("data:", "#")) for reference in page.references)
    assert {reference[1:] for reference in page.references if reference.startswith("#")} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert "<script" not in html
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)
    assert (page.wrong, page.open) == ([], [])
    assert len(html) < 1_000_000


def test_the_verdict_comes_first_and_every_line_of_the_contract_is_there(make_report):
    report = make_report()
    text = Page(render_html(report)).text
    body = text[text.index("} ") :]
    assert body.index("Contract met") < body.index("All 6 checks hold.") < body.index("Accuracy")
    for line in report.contract:
        assert line.name in body


def test_a_broken_contract_says_which_lines(make_report):
    checks = (Check("AP @ ort", 0.2, ">=", 0.27), Check("p99.9 @ ort", NAN, "<=", 5.0, "ms"))
    text = Page(render_html(make_report(checks=checks))).text
    assert "Contract not met 2 of 2 checks fail: AP @ ort, p99.9 @ ort." in text
    assert "−0.0700" in text
    assert "not measured" in text


def test_an_empty_verdict_never_reads_as_kept(make_report):
    assert headline(make_report(checks=())).verdict == "Contract not met"
    assert "Nothing was checked" in Page(render_html(make_report(checks=()))).text


def test_the_headline_names_the_tightest_line(make_report):
    kept = make_report(checks=(Check("a", 0.5, ">=", 0.4), Check("b", 7.6, "<=", 8.0, "ms"), Check("c", 0, "==", 0)))
    assert headline(kept).detail == "All 3 checks hold. The tightest is b, 5% inside its limit."
    assert headline(make_report(checks=(Check("c", 0.0, "==", 0.0),))).detail == "The only check holds."


def test_text_from_outside_is_escaped(make_report, pictures):
    report = make_report(notes=("<script>alert(1)</script>",), inputs={"a": 'x"><b>'})
    assert "<script" not in render_html(report, pictures)


def test_a_report_with_hardly_anything_in_it_still_renders(make_report):
    bare = make_report(
        notes=(), accuracy=Accuracy(reference={}, engines={}), latency={}, layers=(), engines=(), stages=(),
        sources={}, inputs={}, versions={},
    )  # fmt: skip
    page = Page(render_html(bare))
    assert (page.wrong, page.open) == ([], [])
    assert key_figures(bare) == []


def test_classes_are_sorted_by_loss_and_absent_ones_named(make_report):
    accuracy = Accuracy(
        reference={"AP": 0.5, "AP/car": 0.5, "AP/dog": 0.5, "AP/cat": NAN, "AP50/car": 0.9},
        engines={"a": {"AP": 0.4, "AP/car": 0.49, "AP/dog": 0.52, "AP/cat": NAN, "AP50/car": 0.9},
                 "b": {"AP": 0.4, "AP/car": 0.48, "AP/dog": 0.4, "AP/cat": NAN, "AP50/car": 0.9}},
    )  # fmt: skip
    report = make_report(accuracy=accuracy, checks=(Check("AP/dog drop @ b", 0.1, "<=", 0.05),))
    rows = metric_rows(report, by_class=True)
    assert [row.name for row in rows] == ["AP/dog", "AP/car"]
    assert [row.loss for row in rows] == [100.0, 20.0]
    assert [cell.broken for cell in rows[0].cells] == [False, True]
    assert absent_classes(report) == ["cat"]
    assert [row.name for row in metric_rows(report, by_class=False)] == ["AP"]
    assert key_figures(report)[0].context == "float 0.5000, −0.1000"


def test_layers_are_grouped_by_precision_and_reason():
    layers = [
        LayerFacts(name=str(index), op="Conv", precision=precision, reason=reason, macs=macs)
        for index, (precision, reason, macs) in enumerate([("int8", "w", 5), ("float", "head", 90), ("int8", "w", 7)])
    ]
    assert [(r.reason, r.layers, r.macs) for r in reasons(layers)] == [("head", 1, 90), ("w", 2, 12)]


def test_figures_are_written_for_people():
    assert (metric(0.27851), metric(None), change(-0.00664), change(0.1), change(0.0)) == (
        "0.2785", "n/a", "−0.0066", "+0.1000", "0.0000",
    )  # fmt: skip
    assert (ms(4.678), ms(123.45), ms(1234.5), ms(None)) == ("4.68", "123.5", "1234", "n/a")
    assert (share(0.931), count(1234567), size(512), size(1_204_224)) == (
        "93.1 %", "1\u2009234\u2009567", "512 B", "1.1 MiB",
    )  # fmt: skip
    assert (duration(1.84), duration(95.4), duration(None), size(None)) == ("1.8 s", "1 min 35 s", "n/a", "n/a")


def test_both_files_are_written(make_report, pictures, tmp_path):
    write_report(make_report(), pictures, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["report.html", "report.json"]
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        write_report(make_report(), pictures, tmp_path / "file")


def test_an_engine_that_was_skipped_shows_why(make_report):
    skipped = EngineFacts(name="trt_rtx", backend="trt_rtx", runs_here=False, note="tensorrt-rtx is not installed")
    assert "tensorrt-rtx is not installed" in Page(render_html(make_report(engines=(skipped,)))).text


def test_an_engine_s_layers_are_one_short_line(make_report):
    line = (
        "layers that multiply: 26 int8, 8 fp32; only quantize: 1; only convert or copy: 5 (2.5 MiB a run); "
        "stand for several nodes: 2"
    )
    empty = LayerCounts(
        products={},
        conversions=0,
        conversion_bytes=0,
        loose_qdq=0,
        loose_qdq_bytes=0,
        horizontal=0,
        nameless=3,
    )

    report = make_report()

    assert [layer_line(engine.layer_counts) for engine in report.engines if engine.layer_counts] == [line]
    assert line in render_html(report)
    assert layer_line(empty) == (
        "layers that multiply: none; only quantize: 0; only convert or copy: 0; name no node: 3"
    )
