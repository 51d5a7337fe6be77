"""What the layers of a network read: views for them alone, whose gradients are those of their own uses."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx

from avcompress.prune.weights import layers_of


class Inputs(fx.Interpreter):
    """Runs what import_onnx made, once, with a gate before its layers.

    Attributes:
        gates: what layers read, by the fx node that gives it.
        layers: for each, one of the layers that read it.
    """

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.gates: dict[Any, Tensor] = {}
        self.layers: dict[Any, str] = {}
        self._operands: dict[fx.Node, int] = {}
        for weight, node in layers_of(module):
            self._operands[node] = 1 - weight.operand
            self.layers.setdefault(node.args[1 - weight.operand], weight.layer)

    def run_node(self, n: fx.Node) -> Any:
        """As the interpreter does; a layer reads its gate."""
        if n not in self._operands:
            return super().run_node(n)
        operand = self._operands[n]
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        operands: list[Any] = list(args)
        operands[operand] = self._gate(n.args[operand], operands[operand])
        return self.call_function(n.target, tuple(operands), kwargs)

    def _gate(self, source: Any, value: Tensor) -> Tensor:
        if source not in self.gates:
            # What depends on no image, as a table of positions, has no gradient of its own.
            self.gates[source] = value.view_as(value) if value.requires_grad else value.detach().requires_grad_()
        return self.gates[source]
