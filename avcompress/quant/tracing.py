"""From a torch module to a torch.fx graph: control flow that depends on shapes is followed for one example.

Tensors are traced, so the batch may still vary; only where Python code asks for a number (a loop over `chunk`, an `if`
on a shape) it gets that of the example.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from avcompress.modes import evaluating
from avcompress.spec import ModelError

FAKE = "example"
"""The key in a node's `meta` of what it gives for the example: tensors without values, or numbers."""


def trace(module: nn.Module, example: Tensor) -> fx.GraphModule:
    """Trace a module in eval mode; the GraphModule shares its parameters, and the module itself stays as it is.

    Every node's `meta` has what it gives for the example. Raises ModelError where control flow depends on values.
    """
    with evaluating(module):
        tracer = _Tracer(example)
        try:
            graph = tracer.trace(module)
        except ModelError:
            raise
        except Exception as error:  # whatever the user's code raises on a tensor that has no values
            reason = (str(error).splitlines() or [""])[0][:160]
            raise ModelError(
                f"{type(module).__name__}: expected a module that torch.fx can trace, got {type(error).__name__}: "
                f"{reason}; wrap that code with torch.fx.wrap, or export the network and give `model.onnx`"
            ) from error
        return fx.GraphModule(tracer.root, graph, type(module).__name__)


class _Sized(fx.Proxy):
    """A traced value whose length and number, where it has one, are those of the example."""

    def __len__(self) -> int:
        value = self.node.meta.get(FAKE)
        if isinstance(value, Tensor):
            return int(value.shape[0])
        if isinstance(value, tuple | list):
            return len(value)
        raise _data_dependent(self.node)

    def __index__(self) -> int:
        return int(_number(self.node))

    def __int__(self) -> int:
        return int(_number(self.node))

    def __float__(self) -> float:
        return float(_number(self.node))


def _number(node: fx.Node) -> int | float:
    value = node.meta.get(FAKE)
    if not isinstance(value, int | float):
        raise _data_dependent(node)
    return value


def _data_dependent(node: fx.Node) -> ModelError:
    trace_back = node.stack_trace.strip().splitlines() if node.stack_trace else []
    where = f" ({trace_back[-1].strip()})" if trace_back else ""
    return ModelError(
        f"{node.name}{where}: expected control flow that depends on shapes at most, got the values of a tensor; "
        "use torch.where instead, or export the network and give `model.onnx`"
    )


class _Tracer(fx.Tracer):  # type: ignore[misc, unused-ignore]
    """Computes each call on tensors without values as it is traced."""

    def __init__(self, example: Tensor) -> None:
        super().__init__()
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)
        self.example = self.mode.from_tensor(example.detach())
        self.computing = False

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Sized(node, self)

    def create_node(self, kind: str, target: Any, *rest: Any, **named: Any) -> fx.Node:
        """Not `create_proxy`: a buffer that comes first in a sum reaches the graph here alone."""
        node = super().create_node(kind, target, *rest, **named)
        self.computing = True
        try:
            node.meta[FAKE] = self._computed(node)
        finally:
            self.computing = False
        return node

    def _computed(self, node: fx.Node) -> Any:
        """What the node gives for the example; None where that cannot be told."""
        if node.op == "placeholder":
            return self.example
        args: Any = fx.node.map_arg(node.args, _example)
        kwargs: Any = fx.node.map_arg(node.kwargs, _example)
        with self.mode, torch.no_grad():
            match node.op:
                case "get_attr":
                    return self.mode.from_tensor(_attribute(self.root, str(node.target)))
                case "call_function":
                    return node.target(*args, **kwargs)  # type: ignore[operator]
                case "call_method":
                    return getattr(args[0], str(node.target))(*args[1:], **kwargs)
                case "call_module":
                    return self.root.get_submodule(str(node.target)).forward(*args, **kwargs)
                case _:
                    return None

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        return forward(*args, **kwargs) if self.computing else super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        return attr_val if self.computing else super().getattr(attr, attr_val, parameter_proxy_cache)

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        sized: Any = obj
        return iter([sized[index] for index in range(len(sized))])

    def to_bool(self, obj: fx.Proxy) -> bool:
        value = obj.node.meta.get(FAKE)
        if isinstance(value, bool | int | float):
            return bool(value)
        raise _data_dependent(obj.node)


def _example(node: fx.Node) -> Any:
    return node.meta.get(FAKE)


def _attribute(root: nn.Module, path: str) -> Any:
    owner, _, name = path.rpartition(".")
    return getattr(root.get_submodule(owner), name)
