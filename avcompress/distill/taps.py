"""Tensors from inside a network, by name: recorded while it runs, without changing it.

A torch module is listened to by hooks that are there for one call only. For an fx graph (of `import_onnx` or traced) a
second forward function is written that also returns the tapped tensors; it runs on the module itself.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, fx, nn

from avcompress.spec import ModelError

OUTPUT = ""
"""The name of the network's own output among the taps; no layer has it."""
SHOWN = 3


@dataclass(frozen=True)
class Record:
    """What a network gave for one batch: `output` is what it returned, `taps` its inner tensors by name."""

    output: Any
    taps: Mapping[str, Tensor]

    def at(self, name: str) -> Any:
        """The tensor at a tap; OUTPUT is the output."""
        return self.output if name == OUTPUT else self.taps[name]

    def map(self, change: Callable[[Tensor], Tensor]) -> Record:
        """The same with every tensor changed."""
        return Record(_mapped(self.output, change), {name: change(tensor) for name, tensor in self.taps.items()})


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    match value:
        case Tensor():
            return change(value)
        case dict():
            return {key: _mapped(item, change) for key, item in value.items()}
        case tuple() | list():
            return tuple(_mapped(item, change) for item in value)
        case _:
            return value


# --- names


def find_taps(module: nn.Module, pattern: str, where: str) -> tuple[str, ...]:
    """The names, in the network's order, that a name or fnmatch pattern stands for.

    A torch module's are the paths of its layers; a graph's are those of tensors, ONNX nodes, fx nodes and layers.
    Raises ModelError when there is none.
    """
    names = _names(module)
    # Layers of a traced network that became function calls keep their paths, but for the dots.
    spellings = (pattern, pattern.replace(".", "_"))
    found = next(filter(None, ([n for n, given in names.items() if _fits(given, s)] for s in spellings)), None)
    if found is None:
        near = difflib.get_close_matches(pattern, names, SHOWN, 0.0)
        raise ModelError(
            f"{where}: tap {pattern!r}: expected a layer's or tensor's name, or an fnmatch pattern of some, got none "
            f"that fits; nearest: {', '.join(near)}"
        )
    return tuple(found)


def _fits(names: Iterable[str], pattern: str) -> bool:
    return any(name == pattern or fnmatchcase(name, pattern) for name in names)


def _names(module: nn.Module) -> dict[str, tuple[str, ...]]:
    """The name of every tensor that can be tapped, and what else it is called."""
    if not isinstance(module, fx.GraphModule):
        return {name: (name,) for name, _ in module.named_modules() if name}
    return {name: _aliases(node) for name, node in tap_names(module).items()}


def tap_names(module: fx.GraphModule) -> dict[str, fx.Node]:
    """The nodes of a graph that compute something, by the names of the taps on them."""
    found: dict[str, fx.Node] = {}
    for node in module.graph.nodes:
        if node.op.startswith("call_"):
            # Fake quantization gives a tensor of the same name as the one it rounds: the first is the layer's own.
            found.setdefault(_name(node), node)
    return found


def _name(node: fx.Node) -> str:
    _, tensors = node.meta.get("onnx", ("", ()))
    if len(tensors) == 1:
        return str(tensors[0])
    return str(node.target) if node.op == "call_module" else node.name


def _aliases(node: fx.Node) -> tuple[str, ...]:
    owner, tensors = node.meta.get("onnx", ("", ()))
    return (_name(node), node.name, owner, *(tensors if len(tensors) == 1 else ()))


def plain(name: str) -> str:
    """A name as fx writes it, by which a layer is the same before and after it became a function call."""
    return re.sub(r"\W", "_", name)


# --- recording


class Tapped:
    """A network whose tensors of the given names are recorded at each call.

    With `before` it is what the named layers take. Raises ModelError at a call when a layer runs twice or never, gives
    something else than a tensor, or gives one that a later layer writes over in place.
    """

    def __init__(self, module: nn.Module, names: Iterable[str], where: str, before: bool = False) -> None:
        self.module, self.names, self.where, self.before = module, tuple(dict.fromkeys(names)), where, before
        graph = isinstance(module, fx.GraphModule) and self.names
        self.forward = _listening(module, self.names, before) if graph else None  # type: ignore[arg-type]

    def __call__(self, inputs: Tensor) -> Record:
        """Run the module, in the mode that it is in."""
        if self.forward is None:
            output, heard = self._hooked(inputs)
        else:
            output, *pairs = self.forward(self.module, inputs)
            heard = {name: [pair] for name, pair in zip(self.names, pairs, strict=True)}
        return Record(output, {name: self._checked(name, heard[name]) for name in self.names})

    def _hooked(self, inputs: Tensor) -> tuple[Any, dict[str, list[tuple[Any, int]]]]:
        heard: dict[str, list[tuple[Any, int]]] = {name: [] for name in self.names}

        def listen(name: str) -> Callable[[nn.Module, Any, Any], None]:
            def hook(layer: nn.Module, given: Any, gave: Any) -> None:  # noqa: ARG001
                heard[name].append(_dated(given[0] if self.before else gave))

            return hook

        handles = [self.module.get_submodule(name).register_forward_hook(listen(name)) for name in self.names]
        try:
            return self.module(inputs), heard
        finally:
            for handle in handles:
                handle.remove()

    def _checked(self, name: str, heard: Sequence[tuple[Any, int]]) -> Tensor:
        if len(heard) != 1:
            raise self._error(name, "a layer that runs once", f"one that runs {len(heard)} times", "tap another one")
        value, version = heard[0]
        if not isinstance(value, Tensor):
            raise self._error(name, "a layer that gives a tensor", type(value).__name__, "tap a layer inside it")
        if not value.is_inference() and value._version != version:
            raise self._error(
                name,
                "a tensor that stays as it is",
                "one that a later layer writes over in place",
                "tap that layer, or build it with inplace=False",
            )
        return value

    def _error(self, name: str, expected: str, got: str, remedy: str) -> ModelError:
        return ModelError(f"{self.where}: tap {name!r}: expected {expected}, got {got}; {remedy}")


def _dated(value: Any) -> tuple[Any, int]:
    """A tensor and how often it was written to until now."""
    counted = isinstance(value, Tensor) and not value.is_inference()
    return value, value._version if counted else 0


def _listening(module: fx.GraphModule, names: Sequence[str], before: bool) -> Callable[..., Any]:
    """A forward function of (module, inputs) that returns the output and each tapped tensor with its date.

    A function of the module's class, not a module: it finds the parameters, whatever has become of them, on the
    module that it is given.
    """
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    output = graph.graph_copy(module.graph, copies)
    nodes = tap_names(module)
    dated = []
    for name in names:
        copied = copies[nodes[name]]
        with graph.inserting_before(copied) if before else graph.inserting_after(copied):
            dated.append(graph.call_function(_dated, (copied.args[0] if before else copied,)))
    graph.output((output, *dated))
    graph.lint()
    forward: Callable[..., Any] = type(fx.GraphModule(module, graph)).forward
    return forward
