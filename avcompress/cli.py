"""The command line: parses arguments, shows progress and results, and turns every outcome into an exit code.

0 done and contract met, 1 contract not met, 2 bad input or usage, 3 something this machine lacks,
4 a defect of avcompress (with a traceback), 130 interrupted by Ctrl-C, 143 by SIGTERM.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import shlex
import signal
import sys
import traceback
import warnings
from enum import IntEnum
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from avcompress import __version__
from avcompress.spec import AvcompressError, Check, RecipeError
from avcompress.symbols import spelled, tick

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

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
def run(  # noqa: PLR0913, PLR0917 (the options of a command, and its context)
    context: typer.Context,
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

    context.obj.install()
    console = _console()
    loaded = load_recipe(recipe)
    _check_json(json_file, out, (recipe,))
    job = Job(
        recipe=loaded,
        recipe_path=recipe.resolve(),
        data_root=(data_root or recipe.parent).resolve(),
        out=out.resolve(),
        resume=resume,
    )
    outcome = execute(job, _watch(console, quiet))
    if not quiet:
        console.print()
    _show(console, outcome)
    if json_file:
        _write_json(json_file, outcome.report.model_dump(mode="json"))
    raise typer.Exit(Exit.MET if outcome.verdict.passed else Exit.NOT_MET)


@app.command()
def demo(
    context: typer.Context,
    out: Out = Path("demo_out"),
    resume: Resume = False,
    json_file: JsonFile = None,
    quiet: Quiet = False,
) -> None:
    """Train, quantize and judge a detector and a segmenter on rendered road scenes: needs no files.

    Example: avcompress demo --out demo_out
    """
    from avcompress.pipeline import Job, execute
    from avcompress.recipe_load import load_recipe

    context.obj.install()
    console = _console()
    _check_json(json_file, out, ())
    outcomes = []
    for path in sorted((Path(__file__).parent / "demo").glob("*.yaml")):
        recipe = load_recipe(path)
        if not quiet:
            console.rule(f"{recipe.name}", align="left", style="dim")
        folder = out.resolve() / path.stem
        job = Job(recipe=recipe, recipe_path=path, data_root=path.parent, out=folder, resume=resume)
        outcomes.append(execute(job, _watch(console, quiet)))
    for outcome in outcomes:
        if not quiet:
            console.print()
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
    _prepare_streams()
    # ONNX Runtime would report its use over the network, and complain where it cannot keep an identifier.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # libraries warn their own developers; ours go through Watch.note
    sys.exit(_exit_code(sys.argv[1:]))


def _prepare_streams() -> None:
    """A closed stream swallows what is written to it, and a letter that a terminal lacks stops nobody."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


class _Signals:
    """Turns the first Ctrl-C or SIGTERM into an exception, and leaves at once at the second."""

    def __init__(self) -> None:
        self.code: Exit | None = None

    def install(self) -> None:
        """Listen from now on, except to what our parent wants ignored."""
        sys.unraisablehook = self._lost
        signal.signal(signal.SIGALRM, self._raise)
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.code is not None:
            _complain("interrupted twice: left at once; --resume clears what was half done")
            os._exit(self.code)
        self.code = Exit(128 + number)
        self._raise(number, frame)

    def _raise(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        raise KeyboardInterrupt if self.code == Exit.INTERRUPTED else Terminated

    def _lost(self, lost: UnraisableHookArgs) -> None:
        """Raise again, soon, what came while Python ran a destructor or the like, which ignores exceptions."""
        if issubclass(lost.exc_type, KeyboardInterrupt | Terminated):
            signal.setitimer(signal.ITIMER_REAL, 0.05)
        else:
            sys.__unraisablehook__(lost)


def _exit_code(arguments: list[str]) -> int:
    command = typer.main.get_command(app)
    signals = _Signals()
    try:
        # Not standalone: click would turn Ctrl-C into exit code 1, which here means "contract not met".
        code = int(command.main(arguments, prog_name="avcompress", standalone_mode=False, obj=signals) or 0)
        # Typer turns Ctrl-C into this code before we can see it.
        return _interrupted(Exit.INTERRUPTED, arguments) if code == Exit.INTERRUPTED else code
    except (KeyboardInterrupt, Terminated):
        return _interrupted(signals.code or Exit.INTERRUPTED, arguments)
    except Exception as error:
        # An interrupt inside a library may come back as an error of the library's own.
        return _interrupted(signals.code, arguments) if signals.code else _failed(error)


def _failed(error: Exception) -> int:
    """One line on what went wrong, and the exit code."""
    match error:
        case AvcompressError():
            _complain(f"error: {_one_line(str(error))}")
            return error.exit_code
        case OSError():
            where, reason = error.filename or "input or output", error.strerror or str(error)
            _complain(f"error: {where}: expected to read or write here, got {reason}; check permissions and free space")
            return Exit.MISSING
        case MemoryError():
            _complain(
                "error: memory: expected enough for this network, got none left; close programs or use smaller images"
            )
            return Exit.MISSING
        case _:
            return _usage_or_defect(error)


def _usage_or_defect(error: Exception) -> int:
    name = type(error).__name__
    if name == "NoArgsIsHelpError":
        print(str(error), file=sys.stderr)
        return Exit.BAD_INPUT
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


def _complain(line: str) -> None:
    with contextlib.suppress(OSError):  # nobody reads it, but the exit code tells
        sys.stdout.flush()
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr)


def _one_line(text: str) -> str:
    return " ".join(text.split())


class _Console(Console):
    """A console that outlives its reader: a run goes on when `| head` has seen enough."""

    def on_broken_pipe(self) -> None:
        """Write to nobody from now on."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _console() -> Console:
    if sys.stdout.isatty():
        return _Console(highlight=False)
    columns = os.environ.get("COLUMNS", "")
    width = int(columns) if columns.isdecimal() else 120
    return _Console(highlight=False, width=min(max(width, 80), 1000), no_color=True)


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
        table.add_row(
            _mark(console, check.passed),
            check.name,
            _number(check.measured, check),
            f"{check.sense} {_number(check.limit, check)}",
        )
    met = outcome.verdict.passed
    title = Text("contract met" if met else "contract NOT met", "bold green" if met else "bold red")
    console.print(Text.assemble((outcome.report.recipe, "bold"), ": ", title))
    console.print(table)
    for check in outcome.verdict.failures:
        console.print(
            f"failed: {check.name}: expected {check.sense} {_number(check.limit, check)}, "
            f"{'' if math.isnan(check.measured) else 'measured '}{_number(check.measured, check)}",
            soft_wrap=True,
            markup=False,
        )
    console.print(f"report: {outcome.out / 'report.html'}", soft_wrap=True, markup=False)


def _mark(console: Console, passed: bool) -> Text:
    text = tick(console) if passed else spelled(console, "✗", "FAILED")
    return Text(text, "green" if passed else "bold red")


def _number(value: float, check: Check) -> str:
    if math.isnan(value):
        return "not measured"
    text = f"{value:.0f}" if check.sense == "==" else f"{value:.4g}" if check.unit else f"{value:.4f}"
    return f"{text} {check.unit}".rstrip()


def _check_json(path: Path | None, out: Path, inputs: tuple[Path, ...]) -> None:
    """Raise RecipeError, before the work, for a --json that could not be written or would harm another file."""
    if path is None:
        return
    target = path.resolve()
    if target.is_dir():
        raise RecipeError(f"--json: expected a file, got a folder at {path}; name a file in it")
    if target.is_relative_to(out.resolve()):
        raise RecipeError(
            f"--json: expected a file outside --out, got {path}; the same facts are in {out / 'report.json'}"
        )
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise RecipeError(f"--json: expected a file in a folder that you may write to, got {path}; give another path")
    if target in [each.resolve() for each in inputs]:
        raise RecipeError(f"--json: expected a file of its own, got the recipe {path}; give another path")


def _write_json(path: Path, facts: object) -> None:
    from avcompress.files import write_atomically

    write_atomically(path, json.dumps(facts, indent=2) + "\n")
