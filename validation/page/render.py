"""Writes the report for people and for tools."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from avcompress.files import write_atomically
from validation.page import accuracy, changes, layers, slices, smaller, verdict
from validation.page.candidates import pareto
from validation.page.latency import latency_blocks
from validation.page.template import page_template
from validation.page.versions import version_rows
from validation.pictures import BOX_LEGEND, Picture
from validation.report import Report, report_json

SHOWN_CLASSES = 12
_BY_CLASS_AT_THRESHOLD = ("precision", "recall", "false_alarms", "F1", "boundary_f")


def write_report(report: Report, pictures: Sequence[Picture], folder: Path) -> None:
    """Write report.json and report.html into the folder, each one completely or not at all; raises OutputError."""
    write_atomically(folder / "report.json", report_json(report))
    write_atomically(folder / "report.html", render_html(report, pictures))


def render_html(report: Report, pictures: Sequence[Picture] = ()) -> str:
    """The report as a self-contained page: verdict first, then what it rests on."""
    main = accuracy.main_metric(report)
    family = accuracy.main_family(main)
    families = dict.fromkeys(name.partition("/")[0] for name in report.accuracy.reference if "/" in name)
    shrunk = smaller.smaller(report)
    tables = {name: slices.slice_groups(report, name) for name in dict.fromkeys((main, "recall", "precision"))}
    return page_template("report.html.j2").render(
        report=report,
        pictures=pictures,
        box_legend=BOX_LEGEND,
        created=f"{report.created.day} {report.created:%B %Y, %H:%M %Z}",
        beside=report.beside,
        reference=f"the reference, {report.reference}," if report.reference else "the float network",
        headline=verdict.headline(report),
        failures=verdict.failures(report),
        shown_failures=verdict.SHOWN_FAILURES,
        notes=verdict.notes(report),
        figures=verdict.key_figures(report),
        lines=verdict.contract_lines(report),
        versions=version_rows(report),
        main=main,
        family=family,
        engines=list(report.accuracy.engines),
        overall=accuracy.overall(report),
        by_class=accuracy.by_class(report, family),
        more_by_class=[(name, accuracy.by_class(report, name)) for name in _BY_CLASS_AT_THRESHOLD if name in families],
        operating=accuracy.operating(report),
        false_alarms=accuracy.false_alarms(report),
        absent=accuracy.absent_classes(report, family),
        shown_classes=SHOWN_CLASSES,
        slices=[(name, groups) for name, groups in tables.items() if groups],
        apart=slices.standing_apart(tables[main]),
        compared=list(report.comparisons),
        grids=slices.corruption_grids(report, main),
        changes=changes.change_tables(report),
        latencies=latency_blocks(report),
        smaller=shrunk,
        smaller_lead=smaller.lead(shrunk) if shrunk else "",
        reasons=layers.reasons(report.layers),
        layer_table=layers.layer_table(report),
        macs=sum(layer.macs for layer in report.layers),
        int8_share=layers.int8_share(report.layers),
        pareto=pareto(report),
    )
