"""The command that builds an engine, or the folder that a device builds it from."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from avcompress.cli.app import Exit, JsonFile, Profiles, Quiet, app
from avcompress.cli.terminal import check_json, open_console, open_watch, write_json

if TYPE_CHECKING:
    from avcompress.building import Outcome
    from engines.layer_map import Counts

SHOWN = 12


@app.command()
def build(  # noqa: PLR0913, PLR0917 (the options of a command, and its context)
    context: typer.Context,
    source: Annotated[Path, typer.Argument(help="An ONNX file, or a folder of --export-only.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Build folder to make; a folder of --export-only needs none.")
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            help="The machine that it is for, as `avcompress targets` lists them, or a YAML file; with @PLATFORM for "
            "another than its first.",
        ),
    ] = None,
    profiles: Profiles = None,
    backend: Annotated[
        Literal["trt", "trt_rtx", "openvino", "ort"] | None,
        typer.Option("--backend", help="What builds the engine, where no machine is named."),
    ] = None,
    compute_capability: Annotated[
        str | None, typer.Option("--compute-capability", help="trt_rtx: GPUs to compile for, as sm86,sm89.")
    ] = None,
    shapes: Annotated[
        list[str] | None,
        typer.Option(
            "--shapes",
            help="Shapes of dynamic inputs: images:1x3x416x416, or smallest, optimum, largest, each with the name: "
            "images:1x3x416x416,images:1x3x640x640,images:4x3x640x640; once a profile.",
        ),
    ] = None,
    dialect: Annotated[
        Literal["auto", "strong", "weak", "dla-implicit"] | None,
        typer.Option("--dialect", help="trt: how the network says its precisions; default: the target's."),
    ] = None,
    float_type: Annotated[
        Literal["fp32", "fp16", "bf16"] | None,
        typer.Option("--float", help="Of what is not quantized; default: as the network has it, fp16 on DLA."),
    ] = None,
    ranges: Annotated[
        Path | None,
        typer.Option("--ranges", help="JSON of [least, largest] by tensor, from calibration: DLA's INT8 needs them."),
    ] = None,
    calibration_cache: Annotated[
        Path | None,
        typer.Option("--calibration-cache", help="trt, dla-implicit: INT8 scales of a network without Q/DQ."),
    ] = None,
    precisions: Annotated[
        Path | None, typer.Option("--precisions", help="With --calibration-cache: JSON of int8, fp16, fp32 by node.")
    ] = None,
    workspace: Annotated[
        int | None, typer.Option("--workspace", min=1, help="MB of GPU memory that a layer may use while it works.")
    ] = None,
    optimization_level: Annotated[
        int | None, typer.Option("--optimization-level", min=0, max=5, help="0 builds fastest, 5 searches longest.")
    ] = None,
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="An engine for later versions of this TensorRT, too.")
    ] = False,
    hardware_compatible: Annotated[
        bool, typer.Option("--hardware-compatible", help="trt: an engine for Ampere and all newer GPUs.")
    ] = False,
    dla: Annotated[int | None, typer.Option("--dla", min=0, help="trt: the DLA core to build for.")] = None,
    dla_fallback: Annotated[
        Literal["refuse", "list"] | None,
        typer.Option(
            "--dla-fallback", help="Layers that DLA cannot run: refuse (default), or list and run on the GPU."
        ),
    ] = None,
    timing_cache: Annotated[
        Path | None, typer.Option("--timing-cache", help="trt: folder that keeps what was timed, for the next build.")
    ] = None,
    timeout: Annotated[float | None, typer.Option("--timeout", min=0.1, help="Seconds for the build, at most.")] = None,
    memory_limit: Annotated[
        int | None, typer.Option("--memory-limit", min=1, help="MB of memory for the build's process, at most.")
    ] = None,
    as_is: Annotated[
        bool,
        typer.Option(
            "--as-is", help="Take the network as it is: no dialect, and although lint finds what will go wrong."
        ),
    ] = False,
    export_only: Annotated[
        bool, typer.Option("--export-only", help="Only make the folder, for `avcompress build FOLDER` on a device.")
    ] = False,
    json_file: JsonFile = None,
    quiet: Quiet = False,
) -> None:
    """Build an engine from a finished ONNX network, and show what each of its layers runs in.

    Exit code 0: every layer runs as the network says; 1: one does not, or does not tell; 2: refused.

    Example: avcompress build out/yolox/model.onnx --target rtx-4090 --out out/engine

    Example: avcompress build out/yolox/model.onnx --target orin-agx@jetpack-6.2 --export-only --out yolox_orin
    """
    from avcompress.building import BuildJob, outcome_facts, run_build

    context.obj.install()
    console = open_console()
    inputs = [path for path in (source, ranges, calibration_cache, precisions) if path is not None]
    check_json(json_file, out or source, tuple(inputs))
    options = {
        "compute_capabilities": tuple(compute_capability.split(",")) if compute_capability else None,
        "profiles": _profiles(shapes),
        "dialect": dialect,
        "workspace_mb": workspace,
        "optimization_level": optimization_level,
        "version_compatible": version_compatible or None,
        "hardware_compatible": hardware_compatible or None,
        "dla_core": dla,
        "dla_fallback": dla_fallback,
        "timing_cache": str(timing_cache.resolve()) if timing_cache else None,
        "timeout_s": timeout,
        "memory_limit_mb": memory_limit,
    }
    job = BuildJob(
        source=source,
        out=out,
        backend=backend,
        target=target,
        profiles=tuple(profiles or ()),
        float_type=float_type,
        ranges=ranges,
        options={name: value for name, value in options.items() if value is not None},
        calibration=calibration_cache,
        precisions=precisions,
        as_is=as_is,
        export_only=export_only,
    )
    watch = open_watch(console, quiet)
    watch.begin(1)
    title = f"export {source.name}" if export_only else f"build {source.name}"
    with watch.step(title, reused=False) as track:
        outcome = run_build(job, track)
    _show(console, outcome)
    if json_file:
        write_json(json_file, outcome_facts(outcome))
    raise typer.Exit(Exit.NOT_MET if outcome.mismatches else Exit.MET)


def _profiles(texts: list[str] | None) -> tuple[Any, ...] | None:
    from engines.tensorrt.optimization import parse_profile

    return tuple(parse_profile(text) for text in texts) if texts else None


def _show(console: Console, outcome: Outcome) -> None:
    for note in outcome.file.notes:
        _say(console, f"note: {note}")
    if outcome.built is None:
        _say(console, f"exported for {outcome.file.target}: {outcome.folder}")
        _say(console, f"on the device: avcompress build {outcome.folder.name}, or sh build.sh in it")
        return
    built = outcome.built
    if built.precisions is not None:
        console.print(_layers_table(outcome))
    if outcome.counts is not None:
        _say(console, _counts_line(outcome.counts))
    for mismatch in (outcome.mismatches or ())[:SHOWN]:
        _say(console, f"mismatch: {mismatch.message}")
    if outcome.mismatches and outcome.mismatches[SHOWN:]:
        _say(console, f"... and {len(outcome.mismatches) - SHOWN} more: {built.folder / 'built.json'}")
    for note in (built.note, *built.notes):
        _say(console, f"note: {note}")
    checked = "" if outcome.mismatches is None else f", {len(outcome.mismatches)} mismatches"
    _say(console, f"{built.size_bytes / 1e6:.1f} MB in {built.seconds:.1f} s{checked}: {built.folder}")


def _counts_line(counts: Counts) -> str:
    """The engine's own layers: what multiplies in what, and what is there only to change a type or a layout."""
    products = ", ".join(f"{number} {precision}" for precision, number in counts.precisions.items()) or "none"
    line = f"layers that multiply: {products}; only convert or copy: {counts.conversions}; "
    return f"{line}only quantize: {counts.loose_qdq}"


def _layers_table(outcome: Outcome) -> Table:
    """How many weighted layers run in what, and their share of the multiply-accumulates."""
    precisions = (outcome.built.precisions if outcome.built else None) or {}
    layers: defaultdict[str, int] = defaultdict(int)
    macs: defaultdict[str, int] = defaultdict(int)
    for layer in outcome.plan:
        got = precisions.get(layer.name, "unknown")
        layers[got] += 1
        macs[got] += layer.macs
    total = sum(macs.values())
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("runs in", "layers", "MACs %"):
        table.add_column(column, justify="left" if column == "runs in" else "right")
    for name in sorted(layers, key=lambda each: -layers[each]):
        table.add_row(name, str(layers[name]), f"{100 * macs[name] / total:.1f}" if total else "")
    return table


def _say(console: Console, line: str) -> None:
    console.print(line, soft_wrap=True, markup=False)
