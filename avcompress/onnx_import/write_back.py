"""From a trained module back into the ONNX network that it was imported from."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, fx

from avcompress.onnx_import.graph import import_onnx
from avcompress.onnx_import.quantized import bounds_of, quantize_linear
from avcompress.spec import ModelError
from engines.onnx_graph import attribute, copy, drop_unused, fold_constants, set_nodes_


def write_back(module: fx.GraphModule, network: onnx.ModelProto) -> onnx.ModelProto:
    """The network with the module's parameters and buffers in its initializers; all else stays, names first of all.

    What was stored as integers is rounded onto its grid again, by the scale that the module has now. What training
    left as it was keeps its bytes. A constant that the network computes, by a Transpose say, becomes an initializer.

    Args:
        module: what import_onnx made of this network, or a copy of it, trained.
        network: as it was imported; it is not changed.

    Raises ModelError for a module of another network.
    """
    new = copy(network)
    changed = _changed(module, network)
    whole = fold_constants(network).graph
    stored = {item.name: item for item in whole.initializer}
    made = {output: node for node in new.graph.node for output in node.output}
    there = {item.name: item for item in new.graph.initializer}
    scales = _scales(whole)
    for name, value in changed.items():
        tensor = _encoded(name, value, scales.get(name), module, stored)
        if name in there:
            there[name].CopyFrom(tensor)
        elif made[name].op_type == "Constant":
            del made[name].attribute[:]
            made[name].attribute.append(onnx.helper.make_attribute("value", tensor))
        else:
            set_nodes_(new, [node for node in new.graph.node if name not in node.output])
            new.graph.initializer.append(tensor)
            made = {output: node for node in new.graph.node for output in node.output}
    return drop_unused(new) if any(name not in there for name in changed) else new


def _changed(module: fx.GraphModule, network: onnx.ModelProto) -> dict[str, Tensor]:
    """What the module holds otherwise than the network, by the name of its constant."""
    before = import_onnx(network, module.meta.get("norms", False))
    places: dict[str, str] = {**before.meta["parameters"], **before.meta["buffers"]}
    if places != {**module.meta.get("parameters", {}), **module.meta.get("buffers", {})}:
        raise ModelError(
            "write_back: expected a module that import_onnx made of this network, got one of another; give its own"
        )
    initial, trained = before.state_dict(), module.state_dict()
    found = {name: trained[place].detach().cpu() for name, place in places.items()}
    shaped = {name: initial[place].shape for name, place in places.items()}
    wrong = [name for name, value in found.items() if value.shape != shaped[name]]
    if wrong:
        raise ModelError(
            f"write_back: expected {wrong[0]!r} of shape {tuple(shaped[wrong[0]])}, got "
            f"{tuple(found[wrong[0]].shape)}; give the module of this network"
        )
    return {name: value for name, value in found.items() if not _same(value, initial[places[name]])}


def _same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a.flatten().view(torch.uint8), b.flatten().view(torch.uint8))


def _scales(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    """The DequantizeLinear that reads each constant stored as integers."""
    return {node.input[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}


def _encoded(
    name: str,
    value: Tensor,
    dequantize: onnx.NodeProto | None,
    module: fx.GraphModule,
    stored: Mapping[str, onnx.TensorProto],
) -> onnx.TensorProto:
    """The value as its initializer stores it."""
    if dequantize is not None:
        value = _integers(value, dequantize, module, stored)
    array = value.float().numpy() if value.dtype == torch.bfloat16 else value.numpy()
    # What the network computes from constants alone is stored nowhere yet.
    dtype = onnx.helper.tensor_dtype_to_np_dtype(stored[name].data_type) if name in stored else array.dtype
    # Not ascontiguousarray, which makes a list of one of a scalar.
    return numpy_helper.from_array(np.array(array, dtype, order="C"), name)


def _integers(
    value: Tensor, node: onnx.NodeProto, module: fx.GraphModule, stored: Mapping[str, onnx.TensorProto]
) -> Tensor:
    """A float weight on the grid of its DequantizeLinear."""
    current: dict[str, str] = {**module.meta["parameters"], **module.meta["buffers"]}

    def operand(index: int) -> Tensor | None:
        name = node.input[index] if index < len(node.input) else ""
        if not name:
            return None
        if name in current:
            held: Tensor = module.state_dict()[current[name]]
            return held.detach().cpu().double()
        return torch.from_numpy(numpy_helper.to_array(stored[name]).astype(np.float64))

    scale, zero = operand(1), operand(2)
    if scale is None:
        raise ModelError(f"node {node.name!r} (DequantizeLinear): expected a scale, got none; quantize the model again")
    kind = stored[node.input[0]].data_type
    axis, block = int(str(attribute(node, "axis", 1))), int(str(attribute(node, "block_size", 0)))
    along: int | None = axis % value.dim() if scale.dim() else None
    if block and along is not None:
        scale = _spread(scale, value, along, block)
        zero = zero if zero is None else _spread(zero, value, along, block)
        along = None
    # In float64: a bias of 32 bits is finer than float32.
    return quantize_linear(value.double(), scale, zero, along, bounds_of(kind))


def _spread(values: Tensor, weight: Tensor, axis: int, block: int) -> Tensor:
    """One for each weight, of one for each block along an axis."""
    return values.repeat_interleave(block, axis).narrow(axis, 0, weight.shape[axis])
