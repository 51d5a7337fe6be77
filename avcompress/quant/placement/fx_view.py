"""The placement policy's view of a torch module: what its ONNX export would be, batch normalization folded.

Operators and tensors carry the names of their fx nodes; in a module of `import_onnx`, those of the ONNX graph. Weights
carry the paths of their parameters, as `to_onnx` names them.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from avcompress.modes import evaluating
from avcompress.quant.placement.fx_imported import imported_op
from avcompress.quant.placement.fx_ops import describe_call
from avcompress.quant.placement.fx_sketch import Sketch, is_tensor, op_name, tensor_name
from avcompress.quant.placement.view import GraphView
from avcompress.quant.tracing import FAKE, trace

__all__ = ["graph_view", "op_name", "tensor_name"]


def graph_view(module: nn.Module, *examples: Tensor) -> GraphView:
    """Describe a module for the given inputs, their batch first; a GraphModule by its own graph, any other is traced.

    Raises ModelError where control flow depends on the values of a tensor.
    """
    if not isinstance(module, fx.GraphModule):
        module = trace(module, *examples)
    elif any(FAKE not in node.meta for node in module.graph.nodes if node.op != "output"):
        record_shapes_(module, *examples)
    sketch = Sketch(module)
    for node in module.graph.nodes:
        _describe(node, sketch)
    (output,) = (node for node in module.graph.nodes if node.op == "output")
    names = [sketch.name_of(item) for item in _flat(output.args[0]) if is_tensor(item)]
    return GraphView(tuple(sketch.ops.values()), tuple(names), frozenset(sketch.constants))


def record_shapes_(module: fx.GraphModule, *examples: Tensor) -> None:
    """Note in every node's `meta` what it gives for the examples, in eval mode, without values."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with evaluating(module), mode, torch.no_grad():
        _Recorder(module).run(*(mode.from_tensor(example.detach()) for example in examples))


class _Recorder(fx.Interpreter):  # type: ignore[misc, unused-ignore]
    def run_node(self, n: fx.Node) -> Any:
        n.meta[FAKE] = result = super().run_node(n)
        return result


def _flat(value: Any) -> Iterable[Any]:
    match value:
        case list() | tuple():
            for item in value:
                yield from _flat(item)
        case dict():
            for item in value.values():
                yield from _flat(item)
        case _:
            yield value


def _describe(node: fx.Node, sketch: Sketch) -> None:
    """Add what a node computes; numbers and constants are no operators."""
    value = node.meta.get(FAKE)
    match node.op:
        case "placeholder":
            sketch.names[node] = tensor_name(node)
        case "output":
            pass
        case "get_attr":
            sketch.add_constant(node, tensor_name(node) if "onnx" in node.meta else str(node.target))
        case _ if node.target is operator.getitem and isinstance(sketch.names.get(_first(node)), tuple):
            index: Any = node.args[1]
            sketch.names[node] = sketch.names[_first(node)][index]
        case _ if not _holds_tensor(value):
            pass
        case _ if _depends_on_constants(node, sketch):
            sketch.add_constant(node, node.name)
        case _ if "onnx" in node.meta:
            imported_op(node, sketch)
        case _:
            describe_call(node, sketch)


def _first(node: fx.Node) -> Any:
    return node.args[0] if node.args else None


def _holds_tensor(value: Any) -> bool:
    return any(isinstance(item, Tensor) for item in _flat(value))


def _depends_on_constants(node: fx.Node, sketch: Sketch) -> bool:
    names = [sketch.names_of(source) for source in node.all_input_nodes if source in sketch.names]
    own_values = node.op == "call_module" and not names
    return not own_values and all(sketch.constants.issuperset(several) for several in names)
