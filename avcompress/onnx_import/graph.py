"""Building the GraphModule: one fx call for each ONNX node, one attribute for each constant."""

from __future__ import annotations

import keyword
import operator
import re
from collections.abc import Callable, Iterable
from typing import Any

import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate

from avcompress.onnx_import import images, layers, pointwise, pooling, quantized, resizing, shaping
from avcompress.onnx_import.constants import as_tensor, folded, is_float, trained, values_of
from avcompress.onnx_import.norms import Four, four_of, norm_layer, separate_norms
from avcompress.onnx_import.operand import DTYPES, Call, OnnxNode, Operand
from avcompress.onnx_import.selection import chooses, cuts_before
from avcompress.spec import Array, ModelError
from engines.onnx_graph import first_line, fold_constants, fresh, name_nodes

_LOWERINGS: dict[str, Callable[[OnnxNode], Call]] = {
    **pointwise.LOWERINGS,
    **shaping.LOWERINGS,
    **layers.LOWERINGS,
    **pooling.LOWERINGS,
    **resizing.LOWERINGS,
    **quantized.LOWERINGS,
}
_LOWERED = frozenset({*_LOWERINGS, "DequantizeLinear", "QuantizeLinear", "Shape", "Size"})
_OF_CONSTANTS = frozenset({"Constant", "ConstantOfShape", "Range"})
"""What is nearly always computed away."""
_DOMAINS = frozenset({"", "ai.onnx", "com.microsoft"})
_MICROSOFT = frozenset({"DequantizeLinear", "Gelu", "QuantizeLinear"})  # the same as those of ONNX


def import_onnx(model: onnx.ModelProto, norms: bool = False) -> fx.GraphModule:
    """Turn an ONNX network, float or with Q/DQ, into a GraphModule that computes the same and can be trained.

    Takes the graph's inputs in order and returns its output, or a tuple of them. Shapes are static; where the first
    dimension is 1 it may be any number of images, unless `meta["one_image"]` names what has no place for more. Weights
    and biases become Parameters, other constants buffers; normalization keeps its stored statistics, unless `norms`:
    then each batch normalization whose float32 constants nothing else reads is a layer of torch, which training may
    give other statistics. What is stored as integers becomes float Parameters that are rounded onto their grid at each
    use, with fixed scales and a straight-through gradient.

    Every fx node but the output has `meta["onnx"]`: the name of its ONNX node ("" for inputs and constants) and of the
    tensors it gives; a call has `meta["onnx_op"]`, its type, and every one `meta["shape"]`. The module's `meta` has
    `parameters` and `buffers`, attribute names by initializer, `inputs` and `outputs`, tensor names, and `norms`.

    Raises ModelError for an operator that is not known, a shape that is not static, or a value that is not constant
    where it has to be.
    """
    ready = name_nodes(fold_constants(model))
    builder = _Builder(ready, separate_norms(ready.graph) if norms else frozenset())
    builder.meta["norms"] = norms
    for proto in ready.graph.node:
        builder.add(proto)
    return builder.finish()


class _Builder:
    """The state of one import."""

    def __init__(self, model: onnx.ModelProto, norms: frozenset[Four]) -> None:
        self.proto, self.norms = model.graph, norms
        self.opset = next((o.version for o in model.opset_import if o.domain in {"", "ai.onnx"}), 1)
        self.root = nn.Module()
        self.graph = fx.Graph()
        self.nodes: dict[str, fx.Node] = {}
        self.taken: set[str] = {*dir(self.root), "meta", "graph", "code", *keyword.kwlist}
        self.meta: dict[str, Any] = {"parameters": {}, "buffers": {}}
        self.mixer = ""
        self.trained = trained(model.graph)
        values, self.stored = values_of(model.graph)
        self.known = {name: _constant(name, value, self.stored.get(name)) for name, value in values.items()}
        self.meta["inputs"] = tuple(v.name for v in self.proto.input if v.name not in self.known)
        for value in self.proto.input:
            if value.name not in self.known:
                self._add_input(value)

    def _add_input(self, value: onnx.ValueInfoProto) -> None:
        kind = value.type.tensor_type
        shape = tuple(d.dim_value for d in kind.shape.dim)
        if not kind.HasField("shape") or any(not d.HasField("dim_value") for d in kind.shape.dim):
            raise ModelError(
                f"input {value.name!r}: expected a static shape, got a dynamic one; load it with load_onnx and a size"
            )
        meta = torch.empty(shape, dtype=DTYPES[kind.elem_type], device="meta")
        many = meta.new_empty((images.MANY, *shape[1:])) if shape[:1] == (1,) else None
        operand = Operand(value.name, meta, many=many)
        node = self.graph.placeholder(fresh(_identifier(value.name), self.taken))
        self._register(node, operand, "")

    def _register(self, node: fx.Node, operand: Operand, owner: str) -> None:
        node.meta["onnx"] = (owner, (operand.name,))
        node.meta["shape"] = operand.shape
        self.nodes[operand.name] = node
        self.known[operand.name] = operand

    def add(self, proto: onnx.NodeProto) -> None:
        """Lower one node, or compute it where it depends on constants alone."""
        missing = next((name for name in proto.input if name and name not in self.known), None)
        if missing is not None:
            raise ModelError(
                f"node {proto.name!r} ({proto.op_type}): expected {missing!r} before it, got no such tensor"
            )
        node = OnnxNode(proto, tuple(self.known[name] if name else None for name in proto.input), self.opset)
        if node.kind == "If" and node.x.value is not None:
            self._branch(node, bool(node.x.value.item()))
            return
        values = folded(node)
        if values is not None:
            for name, value in zip(proto.output, values, strict=False):
                self.known[name] = _constant(name, value)
            return
        self._emit(node, self._lowered(node))

    def _branch(self, node: OnnxNode, taken: bool) -> None:
        """Lower the branch of an If that shapes alone decide, as exporters write it around a Squeeze."""
        branch: onnx.GraphProto = node.attribute("then_branch" if taken else "else_branch")
        named = {inner.name: outer for inner, outer in zip(branch.output, node.proto.output, strict=True)}
        whole = fold_constants(helper.make_model(branch, opset_imports=[helper.make_opsetid("", self.opset)])).graph
        for item in whole.initializer:
            self.known[item.name] = _constant(item.name, numpy_helper.to_array(item), item.data_type)
        for proto in whole.node:
            for names in (proto.input, proto.output):
                names[:] = [named.get(name, name) for name in names]
            self.add(proto)
        for inner, outer in named.items():
            if outer not in self.known:  # a constant, or a tensor from before the branch
                self.known[outer] = self.known[inner]

    def _lowered(self, node: OnnxNode) -> Call:
        domain = node.proto.domain
        if chooses(node.kind):
            raise self._choosing(node)
        if domain not in _DOMAINS or (domain == "com.microsoft" and node.kind not in _MICROSOFT):
            raise node.error("an operator of ONNX", f"one of {domain!r}", "export the model without it")
        match node.kind:
            case "QuantizeLinear":
                return quantized.lower_quantize(node, self.stored)
            case "DequantizeLinear":
                return quantized.lower_dequantize(node, self.stored)
        lowering = _LOWERINGS.get(node.kind)
        if lowering is None:
            others = sorted({proto.op_type for proto in self.proto.node} - _LOWERED - _OF_CONSTANTS - {node.kind})
            got = f"one it does not, nor {', '.join(others)}" if others else "one it does not"
            raise node.error("an operator that training in torch knows", got, "rewrite it before the export")
        return lowering(node)

    def _choosing(self, node: OnnxNode) -> ModelError:
        """What is said of post-processing inside the graph."""
        cuts = [f"{cut.name} {cut.shape}" for cut in cuts_before(self.proto, self.known)]
        remedy = "export the network without its post-processing, the outputs of its heads joined into one tensor"
        if cuts:
            remedy = f"cut the network at its raw predictions, with model.output: {', or '.join(cuts)}"
        return node.error("an operator that can be trained through", "one that chooses among predictions", remedy)

    def _emit(self, node: OnnxNode, call: Call) -> None:
        result = self._shapes(node, call)
        many = images.follow(node, call, result)
        if many is None:
            self.mixer = self.mixer or f"node {node.proto.name!r} ({node.kind})"
        made = self._created(node, call, fresh(_identifier(node.proto.output[0]), self.taken))
        made.meta["onnx"] = (node.proto.name, tuple(node.proto.output))
        made.meta["onnx_op"] = node.kind
        if isinstance(result, Tensor):
            self.nodes[node.proto.output[0]] = made
            self.known[node.proto.output[0]] = Operand(node.proto.output[0], result, many=many)
            made.meta["shape"] = tuple(result.shape)
            return
        made.meta["shape"] = tuple(tuple(part.shape) for part in result)
        for index, (output, part) in enumerate(zip(node.proto.output, result, strict=False)):
            if output:
                item = self.graph.call_function(operator.getitem, (made, index))
                operand = Operand(output, part, many=None if many is None else many[index])
                self._register(item, operand, node.proto.name)

    def _created(self, node: OnnxNode, call: Call, name: str) -> fx.Node:
        if four_of(node.proto) in self.norms:
            return self.graph.create_node("call_module", self._layer(node), (self._node_of(node.x),), name=name)
        args, kwargs = self._filled(call.args), self._filled(dict(call.kwargs))
        return self.graph.create_node("call_function", call.target, args, kwargs, name=name)

    def _layer(self, node: OnnxNode) -> str:
        """The path of a normalization's layer; nodes with the same constants share it."""
        four = four_of(node.proto)
        known: str = self.meta["parameters"].get(four[0], "").partition(".")[0]
        if known:
            return known
        path = fresh(_identifier(node.proto.name), self.taken)
        self.root.add_module(path, norm_layer(node))
        places = [f"{path}.{part}" for part in ("weight", "bias", "running_mean", "running_var")]
        self.meta["parameters"].update(zip(four[:2], places[:2], strict=True))
        self.meta["buffers"].update(zip(four[2:], places[2:], strict=True))
        return path

    def _shapes(self, node: OnnxNode, call: Call) -> Any:
        """What the call returns, on tensors without values."""
        args: Any = map_aggregate(call.args, _meta_of)
        kwargs: Any = map_aggregate(dict(call.kwargs), _meta_of)
        try:
            return call.target(*args, **kwargs)
        except Exception as error:  # whatever torch raises for shapes that do not fit
            reason = first_line(error)[:160]
            raise node.error("inputs that fit together", reason, "export the model again") from error

    def _filled(self, arguments: Any) -> Any:
        return map_aggregate(arguments, lambda a: self._node_of(a) if isinstance(a, Operand) else a)

    def _node_of(self, operand: Operand) -> fx.Node:
        """The fx node of a tensor; a constant becomes an attribute at its first use."""
        if operand.name not in self.nodes and operand.value is not None:
            attribute = fresh(_identifier(operand.name), self.taken)
            self._set_attribute(attribute, operand)
            self._register(self.graph.get_attr(attribute), operand, "")
        return self.nodes[operand.name]

    def _set_attribute(self, attribute: str, operand: Operand) -> None:
        value, kind = operand.value, self.stored.get(operand.name)
        if value is None:
            return
        if operand.name in self.trained and is_float(value):
            self.root.register_parameter(attribute, nn.Parameter(as_tensor(value, kind)))
            self.meta["parameters"][operand.name] = attribute
        else:
            self.root.register_buffer(attribute, as_tensor(value, kind))
            self.meta["buffers"][operand.name] = attribute

    def finish(self) -> fx.GraphModule:
        """The module, checked by fx."""
        names = tuple(output.name for output in self.proto.output)
        outputs = tuple(self._node_of(self.known[name]) for name in names)
        self.graph.output(outputs[0] if len(outputs) == 1 else outputs)
        self.graph.lint()
        module = fx.GraphModule(self.root, self.graph)
        module.meta.update(self.meta, outputs=names, one_image=self._one_image(names))
        return module

    def _one_image(self, outputs: tuple[str, ...]) -> str:
        """What keeps the module from taking several images; "" where nothing does."""
        given = [self.known[name] for name in self.meta["inputs"]]
        if any(operand.many is None for operand in given):  # it takes what the file says, no images
            return ""
        made = [self.known[name] for name in outputs]
        if any(operand.many is None for operand in made):
            return self.mixer
        beside = (operand for operand in made if images.images_axis(operand) not in {0, None})
        return next((f"output {operand.name!r} {operand.shape}" for operand in beside), "")


def _constant(name: str, value: Array, kind: int | None = None) -> Operand:
    meta = torch.empty(value.shape, dtype=as_tensor(value.reshape(-1)[:1], kind).dtype, device="meta")
    return Operand(name, meta, value, many=meta)


def _meta_of(argument: Any) -> Any:
    return argument.meta if isinstance(argument, Operand) else argument


def _identifier(name: str) -> str:
    """A name that Python takes for an attribute."""
    clean = re.sub(r"\W", "_", name, flags=re.ASCII)
    return clean if clean[:1].isalpha() else f"t{clean}"


def names_of(nodes: Iterable[fx.Node]) -> dict[str, fx.Node]:
    """The fx node of every ONNX tensor, by its name."""
    found: dict[str, fx.Node] = {}
    for node in nodes:
        _, outputs = node.meta.get("onnx", ("", ()))
        if len(outputs) == 1:
            found[outputs[0]] = node
        elif node.target is operator.getitem:
            found[outputs[int(str(node.args[1]))]] = node
    return found
