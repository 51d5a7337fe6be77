"""Commands around calibration statistics: calibrate, merge."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from avcompress.cli.app import DataRoot, JsonFile, Quiet, app
from avcompress.cli.terminal import check_json, open_console, open_watch, write_json
from avcompress.spec import RecipeError

if TYPE_CHECKING:
    from calibration.statistics import Statistics

OutFile = Annotated[Path, typer.Option("--out", help="File for the statistics.")]


@app.command()
def calibrate(  # noqa: PLR0913, PLR0917 (the options of a command, and its context)
    context: typer.Context,
    recipe: Annotated[Path, typer.Argument(help="The YAML recipe; its stages hold `ptq`.")],
    out: Annotated[Path | None, typer.Option("--out", help="File for the statistics.")] = None,
    ranges_out: Annotated[
        Path | None,
        typer.Option(
            "--ranges-out",
            help="JSON file for [least, largest] of every float activation, for `avcompress build --ranges`: INT8 "
            "on a DLA needs them.",
        ),
    ] = None,
    part: Annotated[
        str, typer.Option("--part", metavar="K/N", help="Take every N-th image, from the K-th on: one part of N.")
    ] = "1/1",
    data_root: DataRoot = None,
    json_file: JsonFile = None,
    quiet: Quiet = False,
) -> None:
    """Gather what `ptq` needs of the calibration images into a file, on one machine or in parts on several.

    The recipe takes it by `statistics:` in its `ptq` stage; parts go through `avcompress merge` first.

    Example: avcompress calibrate recipes/yolox_nano_coco.yaml --data-root data --part 1/4 --out part1.stats

    Example: avcompress calibrate recipes/yolox_nano_coco.yaml --data-root data --ranges-out ranges.json
    """
    from avcompress.collecting import WHOLE, collect, parse_part, ranges_of
    from avcompress.recipe_load import load_recipe
    from calibration.statistics_file import save_statistics

    context.obj.install()
    console = open_console()
    share = parse_part(part)
    loaded = load_recipe(recipe)
    if ranges_out and share != WHOLE:
        raise RecipeError(f"--ranges-out: expected it over all images, got it with --part {part}; leave --part out")
    _check_outputs(out, ranges_out, json_file, recipe)
    watch = open_watch(console, quiet)
    watch.begin(1)
    start = time.monotonic()
    with watch.step(f"calibrate (part {share.number} of {share.of})", reused=False) as track:
        folders = recipe.resolve().parent, (data_root or recipe.parent).resolve()
        found = collect(loaded, *folders, share, track, everything=ranges_out is not None)
        if out:
            save_statistics(found, out)
        if ranges_out:
            write_json(ranges_out, ranges_of(loaded, found))
    if ranges_out:
        console.print(f"ranges of {len(found.tensors)} tensors: {ranges_out}", soft_wrap=True, markup=False)
    _show(console, found, out, time.monotonic() - start, json_file)


@app.command()
def merge(
    context: typer.Context,
    files: Annotated[list[Path], typer.Argument(help="Files of `avcompress calibrate`.")],
    out: OutFile,
    json_file: JsonFile = None,
) -> None:
    """Merge the statistics of several parts into those of all their images, in any order, to the same bytes.

    Example: avcompress merge part1.stats part2.stats --out all.stats
    """
    from calibration.statistics import merge_statistics
    from calibration.statistics_file import load_statistics, save_statistics

    context.obj.install()
    console = open_console()
    _check_files(out, json_file, tuple(files))
    twice = next((path for path in files if files.count(path) > 1), None)
    if twice is not None:
        raise RecipeError(f"{twice}: expected each file once, got it {files.count(twice)} times; leave it out")
    start = time.monotonic()
    found = merge_statistics({str(path): load_statistics(path) for path in files})
    save_statistics(found, out)
    _show(console, found, out, time.monotonic() - start, json_file)


def _check_files(out: Path, json_file: Path | None, inputs: tuple[Path, ...]) -> None:
    """Raise RecipeError, before the work, for an --out that could not be written or would harm another file."""
    from calibration.statistics_file import holds_statistics

    if out.is_dir():
        raise RecipeError(f"--out: expected a file, got a folder at {out}; name a file in it")
    if out.resolve() in [each.resolve() for each in inputs]:
        raise RecipeError(f"--out: expected a file of its own, got the input {out}; give another path")
    if out.is_file() and not holds_statistics(out):
        raise RecipeError(
            f"--out: expected a new file, or statistics to replace, got another file at {out}; give another path"
        )
    if out.parent.is_dir() and not os.access(out.parent, os.W_OK):
        raise RecipeError(f"--out: expected a file in a folder that you may write to, got {out}; give another path")
    if json_file and json_file.resolve() == out.resolve():
        raise RecipeError(f"--json: expected a file of its own, got that of --out, {json_file}; give another path")
    check_json(json_file, None, inputs)


def _check_outputs(out: Path | None, ranges_out: Path | None, json_file: Path | None, recipe: Path) -> None:
    if out is None and ranges_out is None:
        raise RecipeError("--out: expected a file for the statistics, or --ranges-out, got none; give one")
    if out:
        _check_files(out, json_file, (recipe,))
    else:
        check_json(json_file, None, (recipe,))
    if ranges_out:
        _check_ranges(ranges_out, tuple(filter(None, (recipe, out, json_file))))


def _check_ranges(path: Path, others: tuple[Path, ...]) -> None:
    """Raise RecipeError, before the work, for a --ranges-out that could not be written or would harm another file."""
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise RecipeError(f"--ranges-out: expected a file in a folder that you may write to, got {path}; give another")
    if path.resolve() in [each.resolve() for each in others]:
        raise RecipeError(f"--ranges-out: expected a file of its own, got {path} twice; give another path")
    if path.is_file() and path.suffix != ".json":
        raise RecipeError(f"--ranges-out: expected a new file, or JSON to replace, got {path}; give another path")


def _show(console: Console, found: Statistics, out: Path | None, seconds: float, json_file: Path | None) -> None:
    facts = {
        "file": str(out) if out else None,
        "images": len(found.images),
        "tensors": len(found.tensors),
        "network": found.network,
        "preprocess": found.preprocess,
        "size_bytes": out.stat().st_size if out else None,
        "seconds": round(seconds, 3),
    }
    if out:
        console.print(
            f"statistics of {len(found.tensors)} tensors over {len(found.images)} images: {out}",
            soft_wrap=True,
            markup=False,
        )
    if json_file:
        write_json(json_file, facts)
