"""The application that the commands register with: their common options and exit codes."""

from __future__ import annotations

from enum import IntEnum
from pathlib import Path
from typing import Annotated

import typer

from avcompress import __version__

DATA_ROOT_VARIABLE = "AVCOMPRESS_DATA"


class Exit(IntEnum):
    """What a process that started us learns."""

    MET = 0
    NOT_MET = 1
    BAD_INPUT = 2
    MISSING = 3
    DEFECT = 4
    INTERRUPTED = 130
    TERMINATED = 143


app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Compress perception networks for cars under one contract of deadline and accuracy.",
)

Out = Annotated[Path, typer.Option("--out", help="Folder for the results.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on where an earlier run in this folder stopped.")]
Cache = Annotated[
    Path | None, typer.Option("--cache", help="A folder of finished steps that this run shares with others.")
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print the result and nothing before it.")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Also write the facts to this file as JSON.")]
JunitFile = Annotated[
    Path | None, typer.Option("--junit", help="Also write the checks to this file as JUnit XML, for CI.")
]
Profiles = Annotated[
    list[Path] | None, typer.Option("--profiles", help="A folder with target profiles of your own; may be repeated.")
]
DataRoot = Annotated[
    Path | None,
    typer.Option("--data-root", envvar=DATA_ROOT_VARIABLE, help="Folder that the recipe's paths start from."),
]


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Compress perception networks for cars under one contract of deadline and accuracy."""
    if version:
        print(f"avcompress {__version__}")
        raise typer.Exit
