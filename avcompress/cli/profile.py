"""The command that measures what each layer takes in each precision, on the machine that it runs on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from avcompress.cli.app import Quiet, app
from avcompress.cli.elsewhere import On, RemoteCommand, as_given, network_files, open_remote
from avcompress.cli.terminal import check_json, open_console, open_watch
from avcompress.spec import Precision, RecipeError

if TYPE_CHECKING:
    from avcompress.recipe import Engine
    from avcompress.remote import Remote
    from avcompress.search.latency.table import PrecisionTable
    from avcompress.watch import Watch

Backend = Literal["openvino", "ort", "trt"]
FORMATS: tuple[Precision, ...] = ("fp16", "bf16", "int8", "fp8", "int8 weights")


@app.command()
def profile(  # noqa: PLR0913, PLR0917 (the options of a command, and its context)
    context: typer.Context,
    model: Annotated[Path, typer.Argument(help="An ONNX file, float.")],
    out: Annotated[Path, typer.Option("--out", help="The file to write: JSON.")],
    backend: Annotated[Backend, typer.Option("--backend", help="What the network runs on here.")] = "openvino",
    precisions: Annotated[
        list[str] | None,
        typer.Option("--precision", help=f"Beside FP32: {', '.join(FORMATS)}; may be repeated. Default: int8."),
    ] = None,
    size: Annotated[tuple[int, int] | None, typer.Option("--size", help="Height and width of a dynamic input.")] = None,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="Of the CPU; default: all cores.")] = None,
    seconds: Annotated[
        float, typer.Option("--seconds", min=0, help="That each of some fourteen networks is run, without profiler.")
    ] = 4.0,
    on: On = None,
    remote_command: RemoteCommand = None,
    quiet: Quiet = False,
) -> None:
    """Measure what each layer takes in each precision, and what conversions between them take; needs no images.

    Run it where the network shall run, or reach that machine by --on; a search reads the file, wherever it runs.

    Example: avcompress profile model.onnx --out times.json --backend openvino --precision int8

    Example: avcompress profile model.onnx --out times.json --backend trt --precision int8 --on user@vehicle
    """
    from avcompress.profiling import Asked, profile_file

    context.obj.install()
    console = open_console()
    check_json(out, None, (model,), "--out")
    formats, engine = _formats(precisions or ["int8"]), _engine(backend, threads)
    remote = open_remote(on, remote_command)
    watch = open_watch(console, quiet)
    if remote is not None:
        table = _profile_there(context, remote, model, out, watch)
    else:
        table = profile_file(model, size, Asked(engine, formats, seconds), out, watch)
    _show(console, table)
    console.print(f"written: {out}", soft_wrap=True, markup=False)


def _profile_there(context: typer.Context, remote: Remote, model: Path, out: Path, watch: Watch) -> PrecisionTable:
    from avcompress.remote import RESULT, facts_from, run_remotely
    from avcompress.search.latency.table import PrecisionTable, save_table

    files = network_files(model)
    arguments = [*as_given(context, {"model": [next(iter(files))]}), "--out", RESULT, "--quiet"]
    watch.begin(1)
    with watch.step(f"profile on {remote.host}", reused=False, still=True):
        table = facts_from(remote, PrecisionTable, run_remotely(remote, arguments, files))
    save_table(table, out)
    return table


def _formats(names: list[str]) -> tuple[Precision, ...]:
    unknown = [name for name in names if name not in FORMATS]
    if unknown:
        raise RecipeError(f"--precision: expected one of {', '.join(FORMATS)}, got {unknown[0]!r}; give one of them")
    return tuple(known for known in FORMATS if known in names)


def _engine(backend: Backend, threads: int | None) -> Engine:
    """As the network is served: made for speed, not as the numeric reference."""
    from avcompress.recipe import OpenVinoEngine, OrtEngine, TrtEngine

    match backend:
        case "openvino":
            return OpenVinoEngine(backend="openvino", threads=threads)
        case "ort":
            return OrtEngine(backend="ort", optimize=True, threads=threads)
        case "trt":
            return TrtEngine(backend="trt")


def _show(console: Console, table: PrecisionTable) -> None:
    """The layers' sum in each precision; a layer that cannot be in it counts in FP32."""
    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("precision", "layers", "ms", "FP32: ms"):
        shown.add_column(column, justify="left" if column == "precision" else "right")
    for precision in dict.fromkeys(each for own in table.layers_ms.values() for each in own):
        able = [own for own in table.layers_ms.values() if precision in own]
        sums = (sum(own[each] for own in able) for each in (precision, "fp32"))
        shown.add_row(precision, str(len(able)), *(f"{value:.3f}" for value in sums))
    console.print(f"{table.says}; beside the layers {table.others_ms:.3f} ms")
    console.print(shown)
