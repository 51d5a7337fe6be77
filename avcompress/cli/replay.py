"""The command that runs a deployed node over a recorded drive: replay."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from avcompress.cli.app import Exit, JsonFile, Quiet, app
from avcompress.cli.cameras import camera_topics, check_node, named_after
from avcompress.cli.terminal import check_json, open_console, open_watch, write_json
from avcompress.cli.trust import AllowUnsigned, PublicKeys
from avcompress.spec import DataError

if TYPE_CHECKING:
    from ros_nodes.bag.replay import Replayed
    from ros_nodes.core.settings import Settings
    from ros_nodes.parameters import Value
    from validation.latency.values import Latency

_PERCENTILES = ("p50", "p90", "p99")


@app.command()
def replay(  # noqa: PLR0913, PLR0917 (the options of a command, and its context)
    context: typer.Context,
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle to serve.")],
    bag: Annotated[Path, typer.Argument(help="The drive: a rosbag2, MCAP or SQLite.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the new bag, with results and diagnostics.")],
    camera: Annotated[
        list[str] | None,
        typer.Option("--camera", help="NAME=TOPIC, once a camera; default: every topic with images."),
    ] = None,
    fallback: Annotated[Path | None, typer.Option("--fallback", help="Bundle to fall back to.")] = None,
    deadline_ms: Annotated[
        float | None, typer.Option("--deadline-ms", min=1e-6, help="To watch; default: the contract's.")
    ] = None,
    max_age_ms: Annotated[
        float, typer.Option("--max-age-ms", min=1e-6, help="Images that are older when their turn comes are dropped.")
    ] = 200.0,
    every: Annotated[
        bool, typer.Option("--every", help="Serve every image, as if the engine took no time; else as a vehicle would.")
    ] = False,
    node: Annotated[str, typer.Option("--node", help="The node's name, with which its topics begin.")] = "avcompress",
    storage: Annotated[Literal["mcap", "sqlite3"], typer.Option("--storage", help="Of the new bag.")] = "mcap",
    key: PublicKeys = None,
    allow_unsigned: AllowUnsigned = False,
    json_file: JsonFile = None,
    quiet: Quiet = False,
) -> None:
    """Run a bundle over a recorded drive as a vehicle would, and write what it sees into a bag.

    Frames come at the times of their recording. What this machine takes for one passes on the drive's clock, too: those
    that come meanwhile wait, are superseded or dropped as on the road; and nothing is waited for.

    Example: avcompress replay yolox.bundle drive --key release.pem.pub --camera front=/front/image_raw --out seen
    """
    from calibration.bag.reading import image_topics
    from ros_nodes.bag.replay import Replay
    from ros_nodes.bag.replay import replay as run_replay
    from ros_nodes.core.memory import keep_freed_memory
    from ros_nodes.parameters import told

    context.obj.install()
    console = open_console()
    check_json(json_file, out, (bundle, bag))
    check_node(node)
    topics = camera_topics(camera) if camera else named_after(image_topics(bag))
    if not topics:
        raise DataError(f"{bag}: expected topics with images, got none; give another bag")
    given: dict[str, Value | None] = {
        "bundle": str(bundle),
        "fallback": str(fallback) if fallback else None,
        "keys": list(map(str, key or ())),
        "allow_unsigned": allow_unsigned,
        "cameras": list(topics),
        "deadline_ms": deadline_ms,
        "max_age_ms": max_age_ms,
        # A recorder's clock is not the cameras': the age on the bus is not known.
        "age_from": "arrival",
    }
    settings = told({name: value for name, value in given.items() if value is not None}).settings
    watch = open_watch(console, quiet)
    watch.begin(1)
    keep_freed_memory()
    with watch.step(f"replay of {bag.name}", reused=False) as track:
        found = run_replay(bag, out, Replay(settings, topics, node, every, storage), track)
    _show(console, found, out)
    if json_file:
        write_json(json_file, _facts(found, settings, topics))
    raise typer.Exit(Exit.MET)


def _show(console: Console, found: Replayed, out: Path) -> None:
    speed = found.recorded_s / found.seconds if found.seconds else 0.0
    _say(
        console,
        f"{found.engine}: {found.recorded_s:.1f} s of driving in {found.seconds:.1f} s, {speed:.1f} times as fast",
    )
    cameras = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("camera", "received", "published", "dropped"):
        cameras.add_column(column, justify="left" if column in {"camera", "dropped"} else "right")
    for name, counts in found.counts.items():
        dropped = ", ".join(f"{number} {reason}" for reason, number in counts.dropped.items() if number)
        cameras.add_row(name, str(counts.received), str(counts.published), dropped or "0")
    console.print(cameras)
    times = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("ms", *_PERCENTILES, "max"):
        times.add_column(column, justify="left" if column == "ms" else "right")
    for name, latency in found.latencies.items():
        times.add_row(name, *(_plain(latency.percentile(p)) for p in _PERCENTILES), _plain(latency.max))
    console.print(times)
    _say(console, *_too_few(found.latencies))
    total = found.latencies["total"]
    missed, came = total.missed(found.deadline_ms), len(total.samples_ms)
    _say(console, f"dropped, or later than {found.deadline_ms:g} ms: {missed} of {came}", f"bag: {out}")


def _plain(ms: float) -> str:
    return "-" if math.isnan(ms) else f"{ms:.2f}"


def _too_few(latencies: Mapping[str, Latency]) -> tuple[str, ...]:
    """What the percentiles that are not there would have taken."""
    from validation.latency.values import RUNS_NEEDED

    fewest = min(len(latency.samples_ms) for latency in latencies.values())
    missing = [f"{name} takes {RUNS_NEEDED[name]}" for name in _PERCENTILES if fewest < RUNS_NEEDED[name]]
    return (f"note: -: too few images: {', '.join(missing)}",) if missing else ()


def _say(console: Console, *lines: str) -> None:
    for line in lines:
        console.print(line, soft_wrap=True, markup=False)


def _facts(found: Replayed, settings: Settings, topics: dict[str, str]) -> dict[str, object]:
    from validation.latency.facts import distribution

    total = found.latencies["total"]
    return {
        "engine": found.engine,
        "settings": settings.model_dump(mode="json"),
        "topics": topics,
        "recorded_s": found.recorded_s,
        "seconds": found.seconds,
        "cameras": {name: asdict(counts) for name, counts in found.counts.items()},
        "deadline_ms": found.deadline_ms,
        "missed": total.missed(found.deadline_ms),
        "of": len(total.samples_ms),
        "latency": {name: distribution(latency).model_dump(mode="json") for name, latency in found.latencies.items()},
    }
