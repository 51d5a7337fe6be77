"""Commands that look at an ONNX file before it is built: lint."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from avcompress.cli.app import Exit, Profiles, app
from avcompress.cli.terminal import check_json, open_console, write_json
from avcompress.spec import RecipeError

if TYPE_CHECKING:
    from engines.capabilities import Target
    from engines.lint import Finding, Fixed, Repair

_STYLES = {"refused": "bold red", "changed": "red", "slower": "yellow", "note": "dim"}
_MEANINGS = {
    "refused": "no engine is built",
    "changed": "it builds, and silently computes something else",
    "slower": "right, but it costs time",
    "note": "to know",
}


@app.command()
def lint(
    context: typer.Context,
    model: Annotated[Path, typer.Argument(help="An ONNX file, quantized by whatever tool.")],
    target: Annotated[
        str,
        typer.Option(
            "--target",
            help="What it shall run on: tensorrt-8, tensorrt-10, tensorrt-11, tensorrt-rtx, openvino, onnxruntime; or "
            "a machine that `avcompress targets` lists, or a YAML file, with @PLATFORM for another than its first.",
        ),
    ],
    fix_to: Annotated[
        Path | None, typer.Option("--fix", help="Write a repaired model here, and judge that one.")
    ] = None,
    profiles: Profiles = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write every finding to this file.")] = None,
) -> None:
    """Say before any build what will be refused, silently changed, or slower than it looks.

    Exit code 0: nothing is refused or changed; 1: something is; 2: the file cannot be read.

    Example: avcompress lint model.onnx --target tensorrt-10 --fix repaired.onnx

    Example: avcompress lint model.onnx --target orin-agx@jetpack-6.2
    """
    from avcompress.files import write_atomically
    from engines.lint import fix, read_model, to_bytes
    from engines.lint import lint as find

    context.obj.install()
    console = open_console()
    _check_output(fix_to, model)
    check_json(json_file, None, (model, *([fix_to] if fix_to else [])))
    name, kind, machine = _target(target, profiles or [])
    network = read_model(model)
    found = find(network, kind, model.parent, machine)
    _show_findings(console, f"{model.name} for {name}", found)
    fixed = fix(network, kind, model.parent, machine) if fix_to else None
    if fixed and fix_to:
        write_atomically(fix_to, to_bytes(fixed.model, model, fix_to))
        _show_repairs(console, fixed.repairs)
        _show_findings(console, f"{fix_to.name} for {name}", fixed.remaining)
        console.print(f"written: {fix_to}", soft_wrap=True, markup=False)
    else:
        _show_hint(console, found)
    if json_file:
        write_json(json_file, _facts(model, name, found, fixed))
    failed = any(each.severity in {"refused", "changed"} for each in (fixed.remaining if fixed else found))
    raise typer.Exit(Exit.NOT_MET if failed else Exit.MET)


def _target(name: str, folders: Sequence[Path]) -> tuple[str, Target, int | None]:
    """What to call the target, what it takes, and the compute capability of its GPU where a machine is named."""
    from engines.capabilities import TARGETS
    from engines.profile_load import load_profile

    for target in TARGETS:
        if name == target:
            return name, target, None
    chosen = load_profile(name, folders, others=TARGETS)
    return chosen.name, chosen.capabilities, chosen.profile.machine


def _check_output(path: Path | None, model: Path) -> None:
    """Raise RecipeError, before the work, for a --fix that would replace a folder, or the model itself."""
    if path is None:
        return
    if path.is_dir():
        raise RecipeError(f"--fix: expected a file, got a folder at {path}; name a file in it")
    if path.resolve() == model.resolve():
        raise RecipeError(f"--fix: expected a file of its own, got the model {path}; give another path")


def _facts(model: Path, target: str, found: Sequence[Finding], fixed: Fixed | None) -> dict[str, object]:
    facts: dict[str, object] = {
        "model": str(model),
        "target": target,
        "counts": _counts(found),
        "findings": [asdict(each) for each in found],
    }
    if fixed:
        facts["repairs"] = [asdict(each) for each in fixed.repairs]
        facts["remaining_counts"] = _counts(fixed.remaining)
        facts["remaining"] = [asdict(each) for each in fixed.remaining]
    return facts


def _counts(found: Iterable[Finding]) -> dict[str, int]:
    counts = Counter(each.severity for each in found)
    return {severity: counts[severity] for severity in ("refused", "changed", "slower", "note")}


# --- the terminal


def _show_findings(console: Console, title: str, found: Sequence[Finding]) -> None:
    """Print the counts, then one entry a rule, the worst first."""
    counts = _counts(found)
    line = Text.assemble((title, "bold"), ": ")
    for severity, number in counts.items():
        line.append(f"{number} {severity}", _STYLES[severity] if number else "dim")
        line.append("" if severity == "note" else ", ")
    console.print(line, soft_wrap=True)
    for severity, number in counts.items():
        if number:
            console.print(Text(f"{severity}: {_MEANINGS[severity]}", _STYLES[severity]))
            console.print(_table([each for each in found if each.severity == severity]))


def _table(found: Sequence[Finding]) -> Table:
    """A rule each: how often, where first, and what; then why, and what to do."""
    table = _grid()
    for rule, group in _by_rule(found).items():
        first, number = group[0], len(group)
        fixable = sum(each.fixable for each in group)
        mark = "" if not fixable else " (--fix does)" if fixable == number else f" (--fix does {fixable})"
        what = f", {'first ' if number > 1 else ''}{first.where}: {first.what}\n"
        reason = (f"{first.why}. Do: {first.fix}{mark}", "dim")
        table.add_row(f"{number:4} x", Text.assemble((rule, "bold"), what, reason))
    return table


def _by_rule(found: Iterable[Finding]) -> dict[str, list[Finding]]:
    groups: dict[str, list[Finding]] = {}
    for each in found:
        groups.setdefault(each.rule, []).append(each)
    return groups


def _show_repairs(console: Console, repairs: Sequence[Repair]) -> None:
    """Print what was done, one line a kind, and how the numbers may differ."""
    console.print(Text(f"repaired: {len(repairs)}", "bold green" if repairs else "bold"))
    groups: dict[tuple[str, str], list[Repair]] = {}
    for each in repairs:
        what = each.what.partition(" Relu ")[0] if each.what.startswith("moved") else each.what
        groups.setdefault((each.rule, what), []).append(each)
    table = _grid()
    for (rule, what), group in groups.items():
        difference = max((each.difference for each in group), key=_width) or "no number changes"
        table.add_row(f"{len(group):4} x", Text.assemble((rule, "bold"), f", {what}; {difference}"))
    console.print(table)


def _width(difference: str) -> float:
    """Orders 'steps 2.01 times as wide' by the number."""
    numbers = [float(word) for word in difference.split() if word[:1].isdecimal()]
    return numbers[0] if numbers else len(difference) / 1000


def _grid() -> Table:
    """How often, and text that may take several lines."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    return table


def _show_hint(console: Console, found: Sequence[Finding]) -> None:
    fixable = sum(each.fixable for each in found)
    if fixable:
        console.print(f"{fixable} of {len(found)} can be repaired: add --fix OUT.onnx", soft_wrap=True, markup=False)
