import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avcompress.spec import Check, OutputError
from validation.page import render_html, write_report
from validation.page.accuracy import absent_classes, by_class, overall
from validation.page.bars import forest_scale
from validation.page.causes import cause
from validation.page.layers import layer_table, reasons
from validation.page.slices import corruption_grids, slice_groups, standing_apart
from validation.page.verdict import contract_lines, failures, headline, key_figures
from validation.page.versions import version_rows
from validation.page.write import (
    amount,
    change,
    count,
    duration,
    ends,
    layer_line,
    metric,
    ms,
    rate,
    share,
    size,
)
from validation.report import (
    Accuracy,
    ContractLine,
    DomainFacts,
    EngineFacts,
    Interval,
    LayerCounts,
    LayerFacts,
    UpdateFacts,
)

NAN = float("nan")
VOID_TAGS = {"meta", "link", "image", "use", "rect", "path", "circle", "br", "img", "col"}


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
    assert "Contract not met 2 of 2 checks fail. AP @ ort 0.2000, limit ≥ 0.2700 p99.9 @ ort not measured" in text
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
    broken = ContractLine(
        name="AP/dog drop @ b", measured=0.1, sense="<=", limit=0.05, margin=-0.05, passed=False, engine="b",
        metric="AP/dog",
    )  # fmt: skip
    report = make_report(accuracy=accuracy, contract=(broken,), passed=False)
    rows = by_class(report, "AP").rows
    assert [row.name for row in rows] == ["dog", "car"]
    assert [cell.drop.value for cell in rows[0].cells] == [pytest.approx(-0.02), pytest.approx(0.1)]
    assert [cell.broken for cell in rows[0].cells] == [False, True]
    assert absent_classes(report, "AP") == ["cat"]
    assert [row.name for row in overall(report).rows] == ["AP"]
    assert key_figures(report)[0].context == "float 0.5000, drop 0.1000"


def test_where_less_is_better_a_rise_is_the_drop(make_report):
    accuracy = Accuracy(reference={"AP": 0.5, "ece": 0.05}, engines={"a": {"AP": 0.5, "ece": 0.08}})
    page = Page(render_html(make_report(accuracy=accuracy)))
    assert "ece 0.0500 0.0800 +0.0300" in page.text


def test_every_part_of_a_full_report_is_on_the_page_and_it_stays_light(full_report, failed_report, rendered):
    assert len(rendered(full_report)) < 1_000_000
    full, failed = (Page(rendered(report)).text for report in (full_report, failed_report))
    for heading in ("Contract", "Accuracy", "At the deployed threshold", "Slices", "Corruptions", "What changed",
                    "Latency", "Layers", "Candidates", "Engines", "Provenance"):  # fmt: skip
        assert f"{heading} " in full
    assert "a threshold of 0.331 gives the reference's precision" in full
    assert "On ort no threshold gives" in full
    assert "8 of 1 204 images, 0.66 %" in full
    assert "4 of 1 204 images" in full
    assert "cpu 1 820–3 400 MHz" in full
    assert "openvino spends another 0.210 of" in full
    assert "Throttled" not in full
    assert "Throttled: clock of the CPU fell" in failed
    assert "must be proven" in failed
    assert "Proven worse than over all images: time:night." in failed
    assert "backbone.dark2.0.conv first below" in failed
    assert "avcompress run recipes/yolox_nano.yaml" in full
    assert full_report.provenance.networks["float network"] in full


def test_a_reference_that_is_not_the_float_network_is_called_by_its_name(full_report):
    changes = {"reference": "the baseline baselines/released", "latency": {}, "scenarios": (), "notes": ()}
    words = " ".join(Page(render_html(full_report.model_copy(update=changes))).words)

    assert "The reference, the baseline baselines/released, beside the compressed network" in words
    assert "the float network" not in words


def test_an_update_has_both_versions_on_every_set_of_images_beside_what_it_was_made_from(full_report, rendered):
    comparison = full_report.comparisons["ort"]
    domain = DomainFacts(name="day", new=False, images=40, fingerprint="d", comparisons={"ort": comparison})
    facts = UpdateFacts(
        name="fog<b>", previous="out/day", previous_sha256="abc123", number=2, replay=0.25, metric="AP",
        domains=(domain, domain.model_copy(update={"name": "fog<b>", "new": True})),
    )  # fmt: skip
    updated = full_report.model_copy(update={"update": facts})

    old, new = version_rows(updated)
    told = " ".join("".join(Page(rendered(updated)).words).split())

    assert (old.before, old.after, old.drop) == tuple(
        getattr(comparison.slices[0], part)["AP"] for part in ("reference", "network", "drop")
    )
    assert (old.new, new.new, new.images, new.engine) == (False, True, 40, "ort")
    assert "Update 2, fog<b>, of the network in out/day (abc123); 25.0 % of each batch was old images." in told
    assert version_rows(full_report) == []


def test_a_line_about_an_update_s_images_is_not_explained_by_other_images(failed_report):
    line = next(line for line in failed_report.contract if line.metric == "AP/person")
    other = line.model_copy(update={"domain": "fog", "note": ""})

    assert cause(line, failed_report)
    assert cause(other, failed_report) == ""


def test_what_failed_says_why(failed_report):
    found = {failure.name: failure for failure in failures(failed_report)}
    assert list(found) == [
        "AP/person drop @ openvino", "AP in fog:3 drop @ openvino", "p99 @ openvino", "SQNR of the worst layer"
    ]  # fmt: skip
    assert found["AP/person drop @ openvino"].figures == "0.0601 [0.056,\u00a00.065], limit ≤ 0.0300, must be proven"
    assert found["AP/person drop @ openvino"].cause == "327 of 10\u2009579 objects lost, 179 gained"
    assert found["p99 @ openvino"].figures == "8.41 ms, limit ≤ 8.00 ms"
    assert found["p99 @ openvino"].cause == "7 of 1\u2009000 images later than 8 ms (0.70 %)"
    assert found["SQNR of the worst layer"].cause == "first layer below: backbone.dark2.0.conv"


def test_a_late_line_is_explained_by_its_own_scenario(failed_report):
    about = {"measured": 0.3, "sense": "<=", "limit": 0.1, "margin": -0.2, "passed": False, "engine": "openvino"}
    rows = (
        ContractLine(name="miss rate of 7.2 ms, constant_stream @ openvino", **about),
        ContractLine(name="miss rate of 7.2 ms, constant_stream @ openvino", note="8 of 1204 images late", **about),
        ContractLine(name="miss rate of 33 ms, multi_camera @ openvino", **about),
    )
    report = failed_report.model_copy(update={"contract": rows})
    slow = "the machine slowed itself down: clock of the CPU fell from 3400 to 1820 MHz at 88 °C"
    assert [failure.cause for failure in failures(report)] == [
        f"8 of 1\u2009204 images later than 7.2 ms (0.66 %); {slow}", f"8 of 1204 images late; {slow}", ""
    ]  # fmt: skip


def test_a_line_s_own_note_is_told_once_beside_it(failed_report):
    line = failed_report.contract[2].model_copy(update={"note": "lost most: AP/car by 0.2"})
    changes = {"contract": (line,), "notes": (f"{line.name}: {line.note}", "other"), "scenarios": (), "candidates": ()}
    report = failed_report.model_copy(update=changes)
    assert failures(report)[0].cause.startswith("lost most: AP/car by 0.2")
    assert render_html(report).count("lost most") == 1


def test_a_slice_stands_apart_only_where_its_drop_is_proven_larger_than_over_all(failed_report, full_report):
    assert standing_apart(slice_groups(failed_report, "AP")) == ["time:night"]
    assert "time:night" not in standing_apart(slice_groups(full_report, "AP"))
    assert [group.name for group in slice_groups(full_report, "AP")] == [
        "size", "distance", "brightness", "position", "time"
    ]  # fmt: skip
    assert slice_groups(full_report, "AP_small") == []


def test_corruptions_are_a_grid_of_severities_on_one_scale_for_all_engines(failed_report):
    openvino, ort = corruption_grids(failed_report, "AP")
    assert openvino.severities == ("1", "3", "5")
    assert [row.name for row in openvino.rows][:3] == ["fog", "rain", "night"]
    assert [cell.broken for cell in openvino.rows[0].cells] == [False, True, False]
    assert openvino.rows[0].cells[2].tint == 100
    assert max(cell.tint for row in ort.rows for cell in row.cells) < 20


def test_a_layer_that_an_engine_runs_as_several_is_one_row_and_activations_keep_their_place(failed_report):
    time = failed_report.layer_times["openvino"][0]
    twice = failed_report.model_copy(update={"layer_times": {"openvino": (time, time)}})
    rows = layer_table(twice).rows
    assert rows[0].ms["openvino"] == pytest.approx(2 * time.ms)
    drift = failed_report.drift.model_copy(update={"layers": failed_report.drift.layers[1:]})
    names = [row.name for row in layer_table(failed_report.model_copy(update={"drift": drift})).rows]
    assert names == [layer.name for layer in failed_report.layers]


def test_one_uncertain_class_does_not_squeeze_the_scale_of_all():
    usual = [Interval(value=0.01, low=0.0, high=0.02)] * 20
    scale = forest_scale([*usual, Interval(value=0.01, low=-0.9, high=0.9)])
    assert scale.high < 0.05
    bar = scale.bar(Interval(value=0.01, low=-0.9, high=0.9))
    assert (bar.cut_low, bar.cut_high, bar.low, bar.high, bar.proven) == (True, True, 0.0, 100.0, False)
    assert scale.bar(usual[0]).value == scale.place(0.01)
    assert scale.bar(Interval(value=None, low=None, high=None)) is None
    assert forest_scale([Interval(value=0.0, low=None, high=None)]).zero == 50.0
    assert forest_scale([]) is None


@given(st.floats(-0.9, 0.9), st.floats(0, 0.5))
def test_a_scale_has_0_and_another_label_and_shows_every_estimate(value, half):
    scale = forest_scale([Interval(value=value, low=value - half, high=value + half)])
    assert "0" in [label for _, label in scale.ticks]
    assert len(scale.ticks) > 1
    assert 0 < scale.place(value) < 100


def test_the_gauge_shows_the_interval_and_the_side_that_keeps_the_limit(failed_report):
    kept, _, broken, *_ = contract_lines(failed_report)
    assert (kept.gauge.kept_from, kept.gauge.kept_to) == (kept.gauge.limit, 100.0)
    assert (broken.gauge.kept_from, broken.gauge.kept_to) == (0.0, broken.gauge.limit)
    assert broken.gauge.limit < broken.gauge.low < broken.gauge.value < broken.gauge.high


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
    assert (rate(0.00012), rate(0.0), rate(0.5), rate(1.0)) == ("0.012 %", "0 %", "50.0 %", "100 %")
    assert (ends(Interval(value=0.1, low=-0.0321, high=None)), ends(Interval(value=0.1, low=None, high=None))) == (
        "[−0.032,\u00a0…]", "",
    )  # fmt: skip
    assert (amount(999_999), amount(12_345_678), amount(None)) == ("999\u2009999", "12.3\u2009M", "n/a")
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


def test_what_is_known_of_a_line_that_is_kept_stands_beside_it(full_report, rendered):
    note = "beyond the limit, but too few images to prove it: AP/stop sign (0.3030)"
    first, *others = full_report.contract
    report = full_report.model_copy(update={"contract": (first.model_copy(update={"note": note}), *others)})

    assert first.passed
    assert rendered(report).count(note) == 1


def test_a_line_that_is_at_its_limit_is_the_tightest(full_report, rendered):
    first, *others = full_report.contract
    report = full_report.model_copy(update={"contract": (*others, first.model_copy(update={"margin": 0.0}))})

    assert f"The tightest is {first.name}, 0% inside its limit." in rendered(report)
