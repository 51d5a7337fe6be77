"""What commands share that can run on another machine: their options, and what of them goes there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from avcompress.spec import RecipeError

if TYPE_CHECKING:
    from avcompress.remote import Remote

On = Annotated[
    str | None,
    typer.Option(
        "--on", help="Measure on this machine by SSH: a name of ~/.ssh/config, user@host, ssh://user@host:port."
    ),
]
RemoteCommand = Annotated[
    str | None, typer.Option("--remote-command", help="What starts avcompress there; default: avcompress.")
]
_HERE = {"on", "remote_command", "json_file", "junit_file", "out", "quiet"}
"""Options that say what happens on this side."""


def open_remote(on: str | None, command: str | None) -> Remote | None:
    """The machine that is asked for; None: this one."""
    from avcompress.remote import Remote

    if on is None:
        if command is not None:
            raise RecipeError("--remote-command: expected --on with it, got none; add it, or leave this out")
        return None
    return Remote(on, command or "avcompress")


def as_given(context: typer.Context, other: Mapping[str, list[str]]) -> list[str]:
    """The options that the user gave, for the same command there; `other` has those with paths, as they are there."""
    return [context.command.name or "", *_options(context, other)]


def _options(context: typer.Context, other: Mapping[str, list[str]]) -> Iterator[str]:
    for parameter in context.command.params:
        name = parameter.name or ""
        if name in other:
            yield from other[name]
        elif name not in _HERE and _was_given(context, name):
            yield from _spelled(parameter, context.params[name])


def _was_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _spelled(parameter: Any, value: Any) -> Iterator[str]:
    if getattr(parameter, "is_flag", False):
        yield parameter.opts[0]
        return
    for each in value if getattr(parameter, "multiple", False) else [value]:
        yield parameter.opts[0]
        yield from map(str, each if parameter.nargs != 1 else [each])


def network_files(path: Path) -> dict[str, Path]:
    """An ONNX file, or a folder, by its name there, and the files beside it that hold an ONNX file's weights."""
    files = {f"given/{path.resolve().name}": path}
    if path.is_file():
        from engines.onnx_load import external_files

        files |= {f"given/{name}": path.parent / name for name in external_files(path)}
    return files
