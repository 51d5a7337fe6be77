"""The command line: parses arguments, shows progress and results, and turns every outcome into an exit code.

0 done and contract met, 1 contract not met, 2 bad input or usage, 3 something this machine lacks,
4 a defect of avcompress (with a traceback), 130 interrupted by Ctrl-C, 143 by SIGTERM.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import traceback
from enum import IntEnum
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from avcompress import __version__
from avcompress.spec import AvcompressError, Check

if TYPE_CHECKING:
    from avcompress.pipeline import Outcome
    from avcompress.watch import Watch

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


class Terminated(BaseException):
    """SIGTERM, raised so that what cleans up behind itself does; no Exception, so that nothing else catches it."""


app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Compress perception networks for cars under one contract of deadline and accuracy.",
)

Out = Annotated[Path, typer.Option("--out", help="Folder for the network, the engines and the report.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on where an earlier run in this folder stopped.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print the verdict and nothing before it.")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Also write the report's facts to this file as JSON.")]
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


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(help="The YAML recipe.")],
    out: Out,
    data_root: DataRoot = None,
    resume: Resume = False,
    json_file: JsonFile = None,
    quiet: Quiet = False,
) -> None:
    """Run a recipe: stages, engines, measurements, verdict, report.

    Example: avcompress run recipes/yolox_nano_coco.yaml --data-root data --out out/yolox
    """
    from avcompress.pipeline import Job, execute
    from avcompress.recipe_load import load_recipe

    console = _console()
    loaded = load_recipe(recipe)
    job = Job(
        recipe=loaded,
        recipe_path=recipe.resolve(),
        data_root=(data_root or recipe.parent).resolve(),
        out=out.resolve(),
        resume=resume,
    )
    outcome = execute(job, _watch(console, quiet))
    _show(console, outcome)
    if json_file:
        _write_json(json_file, outcome.report.model_dump(mode="json"))
    raise typer.Exit(Exit.MET if outcome.verdict.passed else Exit.NOT_MET)


@app.command()
def demo(out: Out = Path("demo_out"), resume: Resume = False, json_file: JsonFile = None, quiet: Quiet = False) -> None:
    """Train, quantize and judge a detector and a segmenter on rendered road scenes: needs no files.

    Example: avcompress demo --out demo_out
    """
    from avcompress.pipeline import Job, execute
    from avcompress.recipe_load import load_recipe

    console = _console()
    outcomes = []
    for path in sorted((Path(__file__).parent / "demo").glob("*.yaml")):
        recipe = load_recipe(path)
        if not quiet:
            console.rule(f"{recipe.name}", align="left", style="dim")
        folder = out.resolve() / path.stem
        job = Job(recipe=recipe, recipe_path=path, data_root=path.parent, out=folder, resume=resume)
        outcomes.append(execute(job, _watch(console, quiet)))
    for outcome in outcomes:
        _show(console, outcome)
    if json_file:
        _write_json(json_file, [outcome.report.model_dump(mode="json") for outcome in outcomes])
    raise typer.Exit(Exit.MET if all(outcome.verdict.passed for outcome in outcomes) else Exit.NOT_MET)


@app.command()
def schema() -> None:
    """Print the JSON Schema of recipes, for editors.

    Example: avcompress schema > recipes/recipe.schema.json
    """
    from avcompress.recipe import Recipe

    print(json.dumps(Recipe.model_json_schema(), indent=2))


def main() -> None:
    """Run the command line; every outcome leaves by an exit code of `Exit`."""
    signal.signal(signal.SIGTERM, _terminate)
    sys.exit(_exit_code(sys.argv[1:]))


def _exit_code(arguments: list[str]) -> int:
    command = typer.main.get_command(app)
    try:
        # Not standalone: click would turn Ctrl-C into exit code 1, which here means "contract not met".
        code = int(command.main(arguments, prog_name="avcompress", standalone_mode=False) or 0)
        # Typer turns Ctrl-C into this code before we can see it.
        return _interrupted(Exit.INTERRUPTED, arguments) if code == Exit.INTERRUPTED else code
    except AvcompressError as error:
        _complain(f"error: {_one_line(str(error))}")
        return error.exit_code
    except KeyboardInterrupt:
        return _interrupted(Exit.INTERRUPTED, arguments)
    except Terminated:
        return _interrupted(Exit.TERMINATED, arguments)
    except OSError as error:
        _complain(f"error: {error.filename or 'input or output'}: {error.strerror or error}")
        return Exit.MISSING
    except MemoryError:
        _complain(
            "error: memory: expected enough for this network, got none left; close programs or use smaller images"
        )
        return Exit.MISSING
    except Exception as error:
        return _usage_or_defect(error)


def _usage_or_defect(error: Exception) -> int:
    name = type(error).__name__
    if hasattr(error, "format_message"):
        _complain(f"error: {_one_line(error.format_message()).rstrip('.')}; see avcompress --help")
        return Exit.BAD_INPUT
    traceback.print_exc()
    _complain(f"error: {name}: a defect of avcompress {__version__}; please report it with the lines above")
    return Exit.DEFECT


def _interrupted(code: Exit, arguments: list[str]) -> int:
    again = shlex.join(["avcompress", *arguments, *([] if "--resume" in arguments else ["--resume"])])
    _complain(f"interrupted: finished steps are kept; go on with: {again}")
    return code


def _terminate(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001
    raise Terminated


def _complain(line: str) -> None:
    sys.stdout.flush()
    print(line, file=sys.stderr)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _console() -> Console:
    if sys.stdout.isatty():
        return Console(highlight=False)
    width = int(os.environ.get("COLUMNS", "120"))
    return Console(highlight=False, width=max(width, 80), no_color=True)


def _watch(console: Console, quiet: bool) -> Watch:
    from avcompress.watch import BarWatch, PlainWatch, SilentWatch

    if quiet:
        return SilentWatch()
    return BarWatch(console) if console.is_terminal else PlainWatch(console)


def _show(console: Console, outcome: Outcome) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("", "check", "measured", "contract"):
        table.add_column(column, justify="right" if column == "measured" else "left")
    for check in outcome.verdict.checks:
        mark = Text("✓", "green") if check.passed else Text("✗", "bold red")
        table.add_row(mark, check.name, _number(check.measured, check), f"{check.sense} {_number(check.limit, check)}")
    console.print()
    met = outcome.verdict.passed
    title = Text("contract met" if met else "contract NOT met", "bold green" if met else "bold red")
    console.print(Text.assemble((outcome.report.recipe, "bold"), ": ", title))
    console.print(table)
    for check in outcome.verdict.failures:
        console.print(
            f"failed: {check.name}: expected {check.sense} {_number(check.limit, check)}, "
            f"measured {_number(check.measured, check)}",
            soft_wrap=True,
            markup=False,
        )
    console.print(f"report: {outcome.out / 'report.html'}", soft_wrap=True, markup=False)


def _number(value: float, check: Check) -> str:
    text = f"{value:.0f}" if check.sense == "==" else f"{value:.4g}" if check.unit else f"{value:.4f}"
    return f"{text} {check.unit}".rstrip()


def _write_json(path: Path, facts: object) -> None:
    from avcompress.files import write_atomically

    write_atomically(path, json.dumps(facts, indent=2) + "\n")
