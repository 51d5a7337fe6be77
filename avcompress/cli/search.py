"""The command that looks for the recipe that keeps a contract: search."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from avcompress.cli.app import DataRoot, Exit, JsonFile, Out, Quiet, Resume, app
from avcompress.cli.elsewhere import On, RemoteCommand, open_remote
from avcompress.cli.terminal import check_json, open_console, open_watch, write_json

if TYPE_CHECKING:
    from rich.console import Console

    from avcompress.search.trials.report import SearchReport


@app.command()
def search(  # noqa: PLR0913, PLR0917 (the options of a command, and its context)
    context: typer.Context,
    recipe: Annotated[Path, typer.Argument(help="A YAML recipe with choices and a section `search`: docs/search.md.")],
    out: Out,
    data_root: DataRoot = None,
    resume: Resume = False,
    workers: Annotated[
        int, typer.Option("--workers", min=1, help="Trials at a time on a machine; they disturb each other.")
    ] = 1,
    ray: Annotated[
        str | None,
        typer.Option(
            "--ray", help="Run trials on a Ray cluster: its host:port, auto, or local for one of this machine."
        ),
    ] = None,
    on: On = None,
    remote_command: RemoteCommand = None,
    json_file: JsonFile = None,
    quiet: Quiet = False,
) -> None:
    """Choose among stages and their settings under the recipe's contract, the cheapest ones first.

    Each trial is a run in a process of its own; the best one is written as an ordinary recipe. Exit code 0: it keeps
    the contract; 1: nothing does, and what stands in the way is told; 2: bad input; 3: something this machine lacks.

    Example: avcompress search search.yaml --data-root data --out out/search
    """
    from avcompress.search.trials.page import PAGE
    from avcompress.search.trials.report import BEST
    from avcompress.search.trials.space import load_space
    from avcompress.searching import SearchJob, execute_search

    context.obj.install()
    console = open_console()
    space = load_space(recipe.resolve())
    check_json(json_file, out, (recipe,))
    job = SearchJob(space, (data_root or recipe.parent).resolve(), out.resolve(), resume, workers, ray=ray)
    job = replace(job, remote=open_remote(on, remote_command))
    report = execute_search(job, open_watch(console, quiet))
    _show(console, report)
    if report.best is not None:
        console.print(f"recipe: {out / BEST}", soft_wrap=True, markup=False)
    console.print(f"page: {out / PAGE}", soft_wrap=True, markup=False)
    if json_file:
        write_json(json_file, report.model_dump(mode="json"))
    raise typer.Exit(Exit.MET if report.met else Exit.NOT_MET)


def _show(console: Console, report: SearchReport) -> None:
    """The verdict, what stands in the way, and all trials with all images or that came to nothing."""
    from avcompress.search.trials.report import COLUMNS, row

    title = Text("contract met", "bold green") if report.met else Text("contract NOT met", "bold red")
    console.print(Text.assemble((report.recipe, "bold"), ": ", title))
    if report.binding:
        console.print(f"in the way: {', '.join(report.binding)}", soft_wrap=True, markup=False)
    if report.spent:
        console.print("the budget was spent before all was tried; go on with a larger budget_s and --resume")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in COLUMNS:
        table.add_column(column, justify="right" if column in {"accuracy", "ms", "bytes", "share"} else "left")
    shown = [record for record in report.trials if record.share == 1 or record.key == report.chosen]
    for record in shown or report.trials:
        table.add_row(*(Text(cell) for cell in row(report, record)))
    console.print(table)
