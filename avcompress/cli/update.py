"""The command that updates a compressed network on new data: update."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from avcompress.cli.app import DataRoot, Exit, JsonFile, JunitFile, Out, Quiet, Resume, app
from avcompress.cli.terminal import check_json, open_console, open_watch, show_outcome, write_outcome

if TYPE_CHECKING:
    from rich.console import Console

    from validation.report import DomainFacts, Report


@app.command()
def update(  # noqa: PLR0913, PLR0917 (the options of a command, and its context)
    context: typer.Context,
    previous: Annotated[Path, typer.Argument(help="The output folder of a run, or of an earlier update.")],
    settings: Annotated[Path, typer.Argument(metavar="UPDATE", help="The YAML file of the update: docs/update.md.")],
    out: Out,
    data_root: DataRoot = None,
    resume: Resume = False,
    json_file: JsonFile = None,
    junit_file: JunitFile = None,
    quiet: Quiet = False,
) -> None:
    """Update a compressed network on new images: its ranges and weights learn them, and what it knew is held.

    It is judged by the contract of its run, by what it may forget of the old images, and by what it must gain on the
    new ones. Exit code 0: all met; 1: not met; 2: bad input; 3: something this machine lacks.

    Example: avcompress update out/yolox night.yaml --data-root data --out out/yolox_night
    """
    from avcompress.recipe_load import load_update
    from avcompress.updating import UpdateJob, execute_update

    context.obj.install()
    console = open_console()
    loaded = load_update(settings)
    check_json(json_file, out, (settings,))
    check_json(junit_file, out, (settings,), "--junit")
    job = UpdateJob(
        previous=previous,
        settings=loaded,
        path=settings.resolve(),
        data_root=(data_root or settings.parent).resolve(),
        out=out.resolve(),
        resume=resume,
    )
    outcome = execute_update(job, open_watch(console, quiet))
    if outcome is None:  # another process of torchrun's tells
        raise typer.Exit
    if not quiet:
        console.print()
    show_outcome(console, outcome)
    _show_versions(console, outcome.report)
    write_outcome(outcome, json_file, junit_file)
    raise typer.Exit(Exit.MET if outcome.verdict.passed else Exit.NOT_MET)


def _show_versions(console: Console, report: Report) -> None:
    """The main metric before and after, on what was known and on what is new."""
    if report.update is None:
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("images", report.update.metric, "before", "after"):
        table.add_column(column, justify="right" if column in {"before", "after"} else "left")
    for domain in report.update.domains:
        for engine in domain.comparisons:
            before, after = (_figure(domain, engine, report.update.metric, which) for which in ("reference", "network"))
            table.add_row(Text(f"{domain.name}{' (new)' if domain.new else ''}"), Text(engine), before, after)
    console.print(table)


def _figure(domain: DomainFacts, engine: str, metric: str, which: str) -> str:
    everywhere = domain.comparisons[engine].slices[0]
    value = getattr(everywhere, which)[metric].value
    return "not measured" if value is None else f"{value:.4f}"
