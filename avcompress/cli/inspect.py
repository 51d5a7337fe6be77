"""The command that shows what is quantized in a network, and why."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from avcompress.cli.app import DataRoot, JsonFile, app
from avcompress.cli.terminal import check_json, open_console, write_json
from avcompress.symbols import spelled

if TYPE_CHECKING:
    from avcompress.quant.analysis.inspection import Inspection, Layer, Tensor


@app.command()
def inspect(
    context: typer.Context,
    model: Annotated[Path, typer.Argument(help="An ONNX file, float or quantized, or a YAML recipe.")],
    data_root: DataRoot = None,
    rules: Annotated[
        Literal["tensorrt", "cpu"] | None,
        typer.Option("--rules", help="Where Q/DQ would go; default: what the recipe says, or tensorrt."),
    ] = None,
    size: Annotated[
        tuple[int, int] | None, typer.Option("--size", help="Height and width of an ONNX file's dynamic input.")
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Show for every weighted layer whether it is quantized and why, and which quantized tensors share a scale.

    Of a float network it shows what `ptq` would do; a recipe's network is built, but no image is read.

    Example: avcompress inspect recipes/yolox_nano_coco.yaml --data-root data
    """
    from avcompress.inspecting import inspect_file

    context.obj.install()
    console = open_console()
    check_json(json_file, None, (model,))
    found = inspect_file(model, (data_root or model.parent).resolve(), rules, size)
    _show(console, found)
    if json_file:
        write_json(json_file, {"model": str(model), **_facts(found)})


def _facts(found: Inspection) -> dict[str, object]:
    total = _macs(found.layers)
    return {
        "quantized_already": found.found,
        "macs": total,
        "layers": [{**asdict(layer), "share": layer.macs / total if total else None} for layer in found.layers],
        "tensors": [asdict(tensor) for tensor in found.tensors],
        "ties": list(_ties(found).values()),
    }


def _macs(layers: tuple[Layer, ...]) -> int:
    return sum(layer.macs for layer in layers)


def _ties(found: Inspection) -> dict[int, list[str]]:
    groups: dict[int, list[str]] = {}
    for tensor in found.tensors:
        if tensor.tie:
            groups.setdefault(tensor.tie, []).append(tensor.name)
    return groups


# --- tables


def _show(console: Console, found: Inspection) -> None:
    total = _macs(found.layers)
    layers = [_layer_row(console, layer, total, found.found) for layer in found.layers]
    _print_table(console, ("layer", "op", "channels", "MACs", "%", "precision", "why"), layers, ("MACs", "%"))
    if found.tensors:
        _print_table(
            console, ("quantized tensor", "scale", "read by"), [_tensor_row(tensor) for tensor in found.tensors]
        )
    _print_table(console, ("precision", "layers", "MACs", "%", "why"), _totals(found), ("layers", "MACs", "%"))
    console.print(_summary(found), soft_wrap=True, markup=False)


def _print_table(
    console: Console, columns: tuple[str, ...], rows: list[tuple[str, ...]], right: tuple[str, ...] = ()
) -> None:
    """Print columns, left-aligned but for `right`; a wide first cell loses its middle, a wide last one wraps."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    others = sum(widths[1:-1]) + 2 * len(columns)
    first = max(console.width - others - min(widths[-1], console.width // 3), 16)
    for name, *cells in rows:
        table.add_row(Text(_elided(console, name, first)), *(Text(cell) for cell in cells))
    console.print(table)
    console.print()


def _layer_row(console: Console, layer: Layer, total: int, found: bool) -> tuple[str, ...]:
    arrow = spelled(console, "→", "->")
    return (
        layer.name,
        _op(layer),
        f"{layer.channels[0]} {arrow} {layer.channels[1]}" if any(layer.channels) else "",
        _count(layer.macs),
        f"{100 * layer.macs / total:.1f}" if total else "",
        layer.precision,
        layer.reason if found else _key(layer),
    )


def _tensor_row(tensor: Tensor) -> tuple[str, ...]:
    return (tensor.name, f"shared {tensor.tie}" if tensor.tie else "own", ", ".join(tensor.readers))


def _elided(console: Console, name: str, width: int) -> str:
    """A name, or the beginning and the longer end of it: the end tells layers apart."""
    if len(name) <= width:
        return name
    dots = spelled(console, "…", "...")
    start = (width - len(dots)) // 3
    return f"{name[:start]}{dots}{name[len(name) - (width - len(dots) - start) :]}"


def _op(layer: Layer) -> str:
    kind = "depthwise" if layer.depthwise else f"{layer.op} /{layer.groups}" if layer.groups > 1 else layer.op
    return f"{kind} {'x'.join(map(str, layer.kernel))}".rstrip()


def _key(layer: Layer) -> str:
    """What a planned reason is about; the whole of it is in the totals."""
    return "quantized" if layer.precision != "float" else layer.reason.partition(":")[0].partition(" (")[0]


def _count(macs: int) -> str:
    for unit, name in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if macs >= unit:
            return f"{macs / unit:.1f}{name}"
    return str(macs) if macs else "unknown"


def _totals(found: Inspection) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    total = _macs(found.layers)
    for (precision, reason), count in Counter((layer.precision, layer.reason) for layer in found.layers).most_common():
        macs = sum(layer.macs for layer in found.layers if (layer.precision, layer.reason) == (precision, reason))
        rows.append((precision, str(count), _count(macs), f"{100 * macs / total:.1f}" if total else "", reason))
    return rows


def _summary(found: Inspection) -> str:
    total = _macs(found.layers)
    done = tuple(layer for layer in found.layers if layer.precision not in {"float", "weights", "inputs"})
    share = f", {100 * _macs(done) / total:.1f} % of {_count(total)} MACs" if total else ""
    verb = "are" if found.found else "would be"
    ties = list(_ties(found).values())
    shared = f"; {sum(map(len, ties))} of them share {len(ties)} scale{'s' if len(ties) > 1 else ''}" if ties else ""
    unknown = sum(layer.macs == 0 for layer in found.layers)
    missing = f" (MACs of {unknown} layers are unknown)" if unknown else ""
    return (
        f"{len(done)} of {len(found.layers)} weighted layers {verb} quantized{share}{missing}; "
        f"{len(found.tensors)} quantized tensors{shared}"
    )
