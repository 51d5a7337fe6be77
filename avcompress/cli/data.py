"""Commands around images: data drive."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from avcompress.cli.app import JsonFile, Quiet, app
from avcompress.cli.terminal import check_json, open_console, open_watch, write_json
from avcompress.spec import RecipeError

if TYPE_CHECKING:
    from calibration.bag.coverage import Coverage

data = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Look at images before a recipe takes them.")
app.add_typer(data, name="data")


@data.callback()
def _commands() -> None:
    """Look at images before a recipe takes them."""


@data.command()
def drive(  # noqa: PLR0913, PLR0917 (the options of a command, and its context)
    context: typer.Context,
    bag: Annotated[Path, typer.Argument(help="A rosbag2, MCAP or SQLite: its folder, or its only file.")],
    topic: Annotated[str | None, typer.Option("--topic", help="The camera's; default: the only one.")] = None,
    start_s: Annotated[
        float, typer.Option("--start-s", min=0, help="From here on, in seconds of the recording.")
    ] = 0.0,
    end_s: Annotated[float | None, typer.Option("--end-s", help="Up to here; default: the recording's end.")] = None,
    rate_hz: Annotated[float, typer.Option("--rate-hz", min=0, help="Frames a second to look at; 0: all.")] = 2.0,
    distinct: Annotated[
        float,
        typer.Option(
            "--distinct", min=0, max=255, help="Mean difference in grey levels below which one is a duplicate."
        ),
    ] = 2.0,
    count: Annotated[int, typer.Option("--count", min=1, help="Frames to take.")] = 128,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Another one takes other frames.")] = 0,
    skip: Annotated[bool, typer.Option("--skip-bad-images", help="Leave out what cannot be decoded.")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", help="New folder for the frames taken, as PNG, for `format: images`.")
    ] = None,
    json_file: JsonFile = None,
    quiet: Quiet = False,
) -> None:
    """Say which frames of a recorded drive `format: rosbag` takes, and what they cover of it.

    Example: avcompress data drive monday --topic /front/image_raw/compressed --count 200 --json coverage.json
    """
    from avcompress.drives import save_images
    from avcompress.recipe_drive import RosbagSource
    from calibration.bag.drive import open_drive

    context.obj.install()
    console = open_console()
    check_json(json_file, out, (bag,))
    if end_s is not None and end_s <= start_s:
        raise RecipeError(f"--end-s: expected more than --start-s, {start_s:g}, got {end_s:g}; mend them")
    settings = RosbagSource(
        format="rosbag",
        bag=str(bag),
        topic=topic,
        start_s=start_s,
        end_s=end_s,
        rate_hz=rate_hz or None,
        distinct=distinct,
        count=count,
        seed=seed,
        on_bad_image="skip" if skip else "fail",
    )
    watch = open_watch(console, quiet)
    watch.begin(2 if out else 1)
    source = open_drive(settings, Path(), None)
    with watch.step(f"look at {bag.name}", reused=False):
        found = source.coverage
    if out:
        with watch.step(f"write {found.taken} images", reused=False) as track:
            save_images(source, out, track)
    _show(console, found, out)
    if json_file:
        write_json(json_file, {**asdict(found), "settings": settings.model_dump(mode="json")})


def _show(console: Console, found: Coverage, out: Path | None) -> None:
    height, width = found.size
    _say(console, f"{found.bag}, {found.topic}: {width}x{height}, {found.recorded_s:.1f} s")
    counts = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("frames", "too soon", "unreadable", "duplicates", "distinct", "taken"):
        counts.add_column(column, justify="right")
    row = (found.read, found.too_soon, found.unreadable, found.duplicates, found.distinct, found.taken)
    counts.add_row(*map(str, row))
    console.print(counts)
    for title, shares in (("brightness", found.brightness), ("content", found.content), ("time", found.time)):
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column(title, min_width=18)
        for column in ("distinct", "taken"):
            table.add_column(column, justify="right")
        for share in shares:
            table.add_row(share.name, str(share.distinct), str(share.taken))
        console.print(table)
    if out:
        _say(console, f"images: {out}")


def _say(console: Console, line: str) -> None:
    console.print(line, soft_wrap=True, markup=False)
