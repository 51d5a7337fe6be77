"""The names of what a torch module returns, and the one of them that a recipe names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from avcompress.spec import ModelError, RecipeError


def named_outputs(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """A module's tensors by the names that the export gives them.

    A single one is `output`, the items of a sequence are `output_0`, `output_1` ..., those of a mapping have their
    keys; nested ones join the names. Raises ModelError for anything else in them but None.
    """
    match value:
        case Tensor():
            yield name or "output", value
        case Mapping():
            for key, item in value.items():
                yield from named_outputs(item, f"{name}_{key}" if name else str(key))
        case list() | tuple():
            for index, item in enumerate(value):
                yield from named_outputs(item, f"{name or 'output'}_{index}")
        case None:
            pass
        case _:
            kind = type(value).__name__
            raise ModelError(f"model: expected it to return tensors, got a {kind} in them; return tensors in eval mode")


def chosen(outputs: Any, name: str | None, where: str = "model.output") -> Any:
    """The output that a recipe names, as the export names it; all that was returned where none is named.

    A tensor stands for itself: a network that was made smaller returns the chosen one alone.
    Raises RecipeError, which begins with `where`, for a name that is not there.
    """
    if name is None or isinstance(outputs, Tensor):
        return outputs
    found = dict(named_outputs(outputs))
    if name not in found:
        raise RecipeError(
            f"{where}: expected one of what the module returns, {', '.join(found)}, got {name!r}; mend it, or return "
            "the same in training and in eval mode"
        )
    return found[name]
