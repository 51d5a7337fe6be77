"""The command that looks for the layers that cost accuracy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from avcompress.cli.app import DataRoot, JsonFile, Out, Quiet, app
from avcompress.cli.terminal import check_json, open_console, open_watch, write_json

if TYPE_CHECKING:
    from validation.errors import ErrorAnalysis

SHOWN = 12


@app.command()
def analyze(  # noqa: PLR0913, PLR0917 (the options of a command, and its context)
    context: typer.Context,
    recipe: Annotated[Path, typer.Argument(help="The YAML recipe; its stages hold `ptq`.")],
    out: Out,
    data_root: DataRoot = None,
    budget: Annotated[float, typer.Option("--budget", min=0, help="Seconds for the analysis, at most.")] = 300.0,
    json_file: JsonFile = None,
    quiet: Quiet = False,
) -> None:
    """Find the layers where quantization costs accuracy: by weights or activations, alone and in the whole network.

    Finished stages of a run in the same folder are kept.

    Example: avcompress analyze recipes/yolox_nano_coco.yaml --data-root data --out out/yolox --budget 300
    """
    from avcompress.analyzing import analyze_job
    from avcompress.recipe_load import load_recipe
    from avcompress.running.bench import Job

    context.obj.install()
    console = open_console()
    loaded = load_recipe(recipe)
    check_json(json_file, out, (recipe,))
    data = (data_root or recipe.parent).resolve()
    job = Job(recipe=loaded, recipe_path=recipe.resolve(), data_root=data, out=out.resolve(), resume=True)
    analysis = analyze_job(job, budget, open_watch(console, quiet))
    _show(console, analysis)
    console.print(f"analysis: {job.out / 'analysis.html'}", soft_wrap=True, markup=False)
    if json_file:
        write_json(json_file, analysis.model_dump(mode="json"))


def _show(console: Console, analysis: ErrorAnalysis) -> None:
    splits = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("quantized", analysis.metric, "output dB"):
        splits.add_column(column, justify="left" if column == "quantized" else "right")
    for split in analysis.splits:
        splits.add_row(split.part, _number(split.metric, 4), _number(split.output_db, 1))
    layers = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("layer", "gain", "alone dB", "without dB", "own dB", "weights dB", "inputs dB", "depth dB"):
        layers.add_column(column, justify="left" if column == "layer" else "right", no_wrap=True)
    for layer in analysis.worst[:SHOWN]:
        noise = (layer.alone_db, layer.without_db, layer.own_db, layer.weights_db, layer.activations_db, layer.depth_db)
        layers.add_row(Text(layer.name), _number(layer.gain, 4, "+"), *(_number(value, 1) for value in noise))
    console.print(splits)
    console.print(f"\nthe costliest of {len(analysis.layers)} layers; gain: {analysis.metric} won by leaving it float")
    console.print(layers)


def _number(value: float | None, digits: int, sign: str = "") -> str:
    return "" if value is None else f"{value:{sign}.{digits}f}"
