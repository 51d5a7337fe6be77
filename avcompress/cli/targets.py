"""The command that shows the machines that engines are built for: targets."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from avcompress.cli.app import JsonFile, Profiles, app
from avcompress.cli.terminal import check_json, open_console, write_json
from avcompress.spec import RecipeError

if TYPE_CHECKING:
    from engines.profile import Chosen, NumberType, Platform, Profile


@app.command()
def targets(
    context: typer.Context,
    name: Annotated[
        str | None, typer.Argument(help="One machine, whole: a name, NAME@PLATFORM, or a YAML file of your own.")
    ] = None,
    profiles: Profiles = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of profiles, for editors.")] = False,
    json_file: JsonFile = None,
) -> None:
    """List the machines that engines are built for, or show one with its platforms, dialects and sources.

    Example: avcompress targets orin-agx
    """
    from engines.profile_load import all_profiles, load_profile
    from engines.profile_schema import profile_schema

    context.obj.install()
    console = open_console()
    if schema:
        print(json.dumps(profile_schema(), indent=2))
        return
    # A file of one's own, with a platform or without.
    check_json(json_file, None, (Path(name), Path(name.rpartition("@")[0])) if name else ())
    if name is None:
        found = all_profiles(profiles or [])
        _show_all(console, found)
        facts: object = [_facts(profile) for profile in found]
    else:
        chosen = load_profile(name, profiles or [])
        _show_one(console, chosen)
        facts = {**_facts(chosen.profile), "chosen": chosen.platform.name}
    if json_file:
        write_json(json_file, facts)


def _facts(profile: Profile) -> dict[str, object]:
    facts = profile.model_dump(mode="json")
    facts["platforms"] = [
        {**platform.model_dump(mode="json"), **_dialects(profile, platform)} for platform in profile.platforms
    ]
    return facts


def _dialects(profile: Profile, platform: Platform) -> dict[str, str | None]:
    """What a network must be for the GPU or CPU, and for the DLA; None where there is none to build for."""
    from engines.profile import Chosen

    chosen = Chosen(profile, platform)
    try:
        on_dla = chosen.dialect(dla=True)
    except RecipeError:
        on_dla = None
    return {"capabilities": chosen.capabilities, "dialect": chosen.dialect(), "dla_dialect": on_dla}


# --- tables


def _show_all(console: Console, profiles: Sequence[Profile]) -> None:
    """Print a line a machine; the widest column, the versions, wraps."""
    rows = [row(profile) for profile in profiles]
    _print_table(console, HEADS, rows, right=HEADS[1:6])
    console.print(f"{len(rows)} targets; avcompress targets NAME shows one with its sources", soft_wrap=True)


HEADS = ("name", "CC", "GB", "GB/s", "INT8", "FP16", "DLA", "TensorRT or other runtime")


def row(profile: Profile) -> tuple[str, ...]:
    """A machine in a line, under HEADS; rates are dense, in TOPS and TFLOPS."""
    return (
        profile.name,
        profile.compute_capability or "-",
        f"{profile.memory_gb:g}",
        f"{profile.bandwidth_gb_s:g}",
        *(f"{profile.peak[key]:g}" if key in profile.peak else "-" for key in ("int8", "fp16")),
        str(profile.dla_cores or "-"),
        " ".join(dict.fromkeys(platform.tensorrt or platform.name for platform in profile.platforms)),
    )


def _show_one(console: Console, chosen: Chosen) -> None:
    profile = chosen.profile
    console.print(Text.assemble((profile.name, "bold"), f": {profile.title}"), soft_wrap=True)
    _print_table(console, ("figure", "value", "from"), _figures(profile))
    heads = ("platform", "runtime", "CUDA", "dialect", "on DLA", "from")
    _print_table(console, heads, [_platform_row(chosen, platform) for platform in profile.platforms])
    console.print("* chosen; ? not looked up in its source", soft_wrap=True, markup=False)


def _figures(profile: Profile) -> list[tuple[str, ...]]:
    facts: dict[str, object] = {"compute_capability": profile.compute_capability or "none"}
    facts |= {"memory_gb": f"{profile.memory_gb:g}", "bandwidth_gb_s": f"{profile.bandwidth_gb_s:g}"}
    facts |= {"precisions": " ".join(profile.precisions)} | _spread("peak", profile.peak)
    facts |= _spread("channel_alignment", profile.channel_alignment)
    if profile.dla:
        facts |= {"dla.cores": profile.dla.cores} | _spread("dla.peak", profile.dla.peak)
        facts |= _spread("dla.channel_alignment", profile.dla.channel_alignment)
    return [(name, str(value), _origin(profile, name)) for name, value in facts.items()]


def _spread(name: str, values: Mapping[NumberType, float]) -> dict[str, object]:
    return {f"{name}.{key}": f"{value:g}" for key, value in values.items()}


def _origin(profile: Profile, figure: str, own: str | None = None) -> str:
    """Where a figure is from and how it follows; a question mark first where nobody has looked."""
    said = [own] if own else [text for name, text in profile.sources.items() if _covers(name, figure)][-1:]
    said += [text for name, text in profile.derived.items() if _covers(name, figure)]
    asked = any(_covers(name, figure) for name in profile.unverified)
    return " ".join([*(["?"] if asked else []), ": ".join(said)]).strip()


def _covers(name: str, figure: str) -> bool:
    from engines.profile_check import covers

    return covers(name, figure)


def _platform_row(chosen: Chosen, platform: Platform) -> tuple[str, ...]:
    profile = chosen.profile
    dialects = _dialects(profile, platform)
    return (
        platform.name + (" *" if platform == chosen.platform else ""),
        f"{platform.runtime} {platform.tensorrt or ''}".strip(),
        platform.cuda or "-",
        dialects["dialect"] or "-",
        dialects["dla_dialect"] or "-",
        _origin(profile, f"platforms.{platform.name}", platform.source),
    )


def _print_table(
    console: Console, columns: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[str] = ()
) -> None:
    """Print columns, left-aligned but for `right`; the last one wraps."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        last = column == columns[-1]
        table.add_column(column, justify="right" if column in right else "left", no_wrap=not last, overflow="fold")
    for cells in rows:
        table.add_row(*(Text(cell) for cell in cells))
    console.print(table)
    console.print()
