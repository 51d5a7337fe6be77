"""The command that compares two finished networks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from avcompress.cli.app import DataRoot, Exit, JsonFile, JunitFile, Quiet, app
from avcompress.cli.terminal import check_json, open_console, open_watch, show_verdict, write_json, write_junit
from avcompress.cli.trust import AllowUnsigned, PublicKeys, bundle_trust

if TYPE_CHECKING:
    from avcompress.judging.comparing import Compared
    from avcompress.judging.differences import Side
    from avcompress.judging.findings import Findings
    from validation.comparison import Estimate

SHOWN = 12
NOT_WORSE = ("nothing is proven worse", "proven worse")


@app.command()
def compare(  # noqa: PLR0913, PLR0917 (the options of a command, and its context)
    context: typer.Context,
    a: Annotated[
        Path, typer.Argument(metavar="A", help="What B is held against: a run, a bundle, an engine, an ONNX.")
    ],
    b: Annotated[Path, typer.Argument(metavar="B", help="What is compared with it.")],
    recipe: Annotated[
        Path | None, typer.Option("--recipe", help="Names the labelled images to measure both on.")
    ] = None,
    data_root: DataRoot = None,
    engine: Annotated[str | None, typer.Option("--engine", help="The backend to compare, where both have it.")] = None,
    min_sqnr_db: Annotated[
        float | None, typer.Option("--min-sqnr-db", help="What every layer of B must keep beside A.")
    ] = None,
    fail_on_regression: Annotated[
        bool, typer.Option("--fail-on-regression", help="Exit with 1 where B is proven worse.")
    ] = False,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for report.html and report.json.")] = None,
    key: PublicKeys = None,
    allow_unsigned: AllowUnsigned = False,
    json_file: JsonFile = None,
    junit_file: JunitFile = None,
    quiet: Quiet = False,
) -> None:
    """Compare two networks: settings, files, precisions, and, on data, accuracy, latency and error by layer.

    Exit code 0, or 1 with --fail-on-regression where something is proven worse.

    Example: avcompress compare out/old out/new --data-root data --fail-on-regression --out out/compared

    Example: avcompress compare old.bundle new.bundle --key release.pem.pub
    """
    from avcompress.judging.comparing import CompareJob
    from avcompress.judging.comparing import compare as run_comparison

    context.obj.install()
    console = open_console()
    inputs = tuple(path for path in (a, b, recipe) if path is not None)
    for option, path in (("--json", json_file), ("--junit", junit_file)):
        check_json(path, out, inputs, option)
    job = CompareJob(
        a=a,
        b=b,
        recipe=recipe,
        data_root=data_root,
        engine=engine,
        min_sqnr_db=min_sqnr_db,
        out=out.resolve() if out else None,
        trust=bundle_trust(key, allow_unsigned),
    )
    found = run_comparison(job, open_watch(console, quiet))
    _show(console, found)
    if json_file:
        write_json(json_file, found.differences.model_dump(mode="json"))
    if junit_file and found.verdict is not None:
        write_junit(junit_file, f"{b.name} against {a.name}", found.verdict, found.differences.report)
    worse = found.verdict is not None and not found.verdict.passed
    raise typer.Exit(Exit.NOT_MET if worse and fail_on_regression else Exit.MET)


def _show(console: Console, found: Compared) -> None:
    differences = found.differences
    _say(console, _side("A", differences.a), _side("B", differences.b))
    same = differences.a.network_sha256 == differences.b.network_sha256
    _say(console, f"network: {'the same' if same else 'another'}")
    _table(console, "settings that differ", ("key", "A", "B"), [(d.key, d.a, d.b) for d in differences.settings])
    files = [(d.name, d.a_bytes, d.b_bytes) for d in differences.files]
    _table(console, "files that differ, bytes", ("file", "A", "B"), files)
    layers = [(d.name, d.a, d.b) for d in differences.layers]
    _table(console, "layers planned in another precision", ("layer", "A", "B"), layers)
    if found.findings is not None and found.verdict is not None:
        _show_measured(console, found.findings)
        show_verdict(console, "B against A", found.verdict, NOT_WORSE)
    _say(console, *(f"note: {note}" for note in found.notes))
    if found.out is not None:
        _say(console, f"report: {found.out / 'report.html'}")


def _show_measured(console: Console, findings: Findings) -> None:
    """Accuracy with its paired interval, latency, and the layers that are furthest apart."""
    for comparison in findings.comparisons.values():
        everywhere = comparison.slices["all"]
        rows = [
            (name, f"{found.value:.4f}", f"{everywhere.network[name].value:.4f}", _drop(everywhere.drop[name]))
            for name, found in everywhere.reference.items()
            if "/" not in name and found.value == found.value
        ]
        _table(console, "accuracy", ("metric", "A", "B", "worse by (interval)"), rows)
    timed = {name: each.latency["single_stream"].served for name, each in findings.engines.items() if each.latency}
    latency = [(name, *(f"{found.percentile(p):.2f}" for p in ("p50", "p99"))) for name, found in timed.items()]
    _table(console, "latency, ms", ("", "p50", "p99"), latency)
    worst = sorted(findings.drift, key=lambda drift: drift.sqnr_db)[:SHOWN]
    layers = [(drift.layer, f"{drift.sqnr_db:.1f}", f"{drift.max_error:.4g}") for drift in worst]
    _table(console, "layers furthest apart", ("layer", "SQNR dB", "max error"), layers)


def _drop(found: Estimate) -> str:
    return f"{found.value:+.4f} ({found.low:+.4f} to {found.high:+.4f})"


def _side(name: str, side: Side) -> str:
    engine = f", {side.engine}" if side.engine else ""
    return f"{name}: {side.path} ({side.kind}{engine}), {side.size_bytes / 1e6:.2f} MB"


def _table(console: Console, title: str, columns: tuple[str, ...], rows: Sequence[tuple[object, ...]]) -> None:
    if not rows:
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, justify="left" if column == columns[0] else "right")
    for row in rows[:SHOWN]:
        table.add_row(*(Text("" if value is None else str(value)) for value in row))
    _say(console, "", f"{title}:")
    console.print(table)
    if rows[SHOWN:]:
        _say(console, f"... and {len(rows) - SHOWN} more: --json has them")


def _say(console: Console, *lines: str) -> None:
    for line in lines:
        # What a manifest says may be a stranger's, and hold what a terminal obeys.
        shown = "".join(letter if letter.isprintable() else "?" for letter in line)
        console.print(shown, soft_wrap=True, markup=False)
