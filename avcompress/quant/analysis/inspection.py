"""What is quantized in a network, by layer and by tensor: planned for a float one, found in a quantized one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import onnx

from avcompress.quant.placement.onnx_view import graph_view, weight_channels
from avcompress.quant.placement.policy import place
from avcompress.quant.placement.view import Op, Placement
from avcompress.quant.plan import prepare
from avcompress.recipe import KeepFloat
from avcompress.spec import LayerPlan, QuantParams
from engines.onnx_graph import (
    attribute,
    infer_shapes,
    is_weighted,
    macs,
    name_nodes,
    shapes,
)
from engines.qdq import QdqSite, qdq_sites

INTEGER_OPERATORS: Mapping[str, int] = {
    "ConvInteger": 1,
    "DynamicQuantizeMatMul": 1,
    "MatMulInteger": 1,
    "MatMulIntegerToFloat": 1,
    "QGemm": 3,
    "QLinearConv": 3,
    "QLinearMatMul": 3,
}
"""Operators that multiply stored integers, of ONNX and of ONNX Runtime, and the input that is the weight."""


@dataclass(frozen=True)
class Layer:
    """One weighted layer.

    Attributes:
        name, op: of the node, and its ONNX type.
        kernel, channels, groups: of the weight; (), (0, 0) and 1 where there is no such thing, or it is unknown.
        depthwise: a convolution with one input channel a group.
        macs: multiply-accumulates for one image; 0 where a shape is unknown.
        precision: int8, float and so on; of a quantized network also "weights" or "inputs" where only those are
            quantized, and "mixed" where the two are in different formats.
        reason: why; of a quantized network, what each of its two inputs carries.
        input: the quantized tensor that it reads; "" where it reads a float one.
    """

    name: str
    op: str
    kernel: tuple[int, ...]
    channels: tuple[int, int]
    groups: int
    depthwise: bool
    macs: int
    precision: str
    reason: str
    input: str


@dataclass(frozen=True)
class Tensor:
    """One quantized activation: the operators that read it so, and the number of its tie; 0 where it has none."""

    name: str
    readers: tuple[str, ...]
    tie: int = 0


@dataclass(frozen=True)
class Inspection:
    """All layers and quantized activations in graph order; `found`: read from a quantized network, not planned."""

    layers: tuple[Layer, ...]
    tensors: tuple[Tensor, ...]
    found: bool


def is_quantized(model: onnx.ModelProto) -> bool:
    """Whether a network holds quantized values of any kind."""
    marks = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", *INTEGER_OPERATORS}
    return any(node.op_type in marks for node in model.graph.node)


# --- planned


def inspect_float(
    model: onnx.ModelProto,
    keep: KeepFloat,
    rules: Literal["tensorrt", "cpu"] = "tensorrt",
    number_format: Literal["int8", "fp8"] = "int8",
) -> Inspection:
    """What `ptq` would do to a float network, as `load_onnx` returns it.

    Raises RecipeError for a pattern of `keep.layers` that matches nothing.
    """
    view = graph_view(prepare(model))
    placement = place(view, keep, rules, number_format)
    ops = {op.name: op for op in view.ops}
    reads = {name: site.tensor for site in placement.activations for name, _ in site.edges}
    return Inspection(
        layers=tuple(_planned(plan, ops[plan.name], reads) for plan in placement.layers),
        tensors=_planned_tensors(placement),
        found=False,
    )


def _planned(plan: LayerPlan, op: Op, reads: Mapping[str, str]) -> Layer:
    return Layer(
        plan.name,
        plan.op,
        op.kernel,
        op.channels,
        op.groups,
        op.depthwise,
        plan.macs,
        plan.precision,
        plan.reason,
        reads.get(plan.name, ""),
    )


def _planned_tensors(placement: Placement) -> tuple[Tensor, ...]:
    tie = {tensor: number for number, group in enumerate(placement.ties, start=1) for tensor in group}
    return tuple(
        Tensor(site.tensor, tuple(name for name, _ in site.edges), tie.get(site.tensor, 0))
        for site in placement.activations
    )


# --- found


def inspect_quantized(model: onnx.ModelProto) -> Inspection:
    """What a network that is quantized already holds, whoever quantized it; raises ModelError for an invalid one."""
    new = name_nodes(infer_shapes(model))
    sites = {site.output: site for site in qdq_sites(new)}
    dequantized = {name for node in new.graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    reader = _Reader(sites, frozenset(dequantized), macs(new), shapes(new))
    layers = [reader.layer(node) for node in new.graph.node if is_weighted(node) or node.op_type in INTEGER_OPERATORS]
    return Inspection(
        layers=tuple(layers),
        tensors=tuple(
            Tensor(site.tensor, tuple(name for name, _ in site.edges)) for site in sites.values() if not site.constant
        ),
        found=True,
    )


@dataclass(frozen=True)
class _Reader:
    """What a quantized network states about its tensors."""

    sites: Mapping[str, QdqSite]
    dequantized: frozenset[str]
    macs: Mapping[str, int]
    shapes: Mapping[str, tuple[int, ...]]

    def layer(self, node: onnx.NodeProto) -> Layer:
        """Describe a weighted node."""
        index = INTEGER_OPERATORS.get(node.op_type, 1)
        shape = self.shapes.get(node.input[index], ())
        groups = int(str(attribute(node, "group", 1)))
        is_convolution = "Conv" in node.op_type
        data, weight = self._carried(node.input[0]), self._carried(node.input[1])
        integers = node.op_type in INTEGER_OPERATORS
        site = self.sites.get(node.input[0])
        return Layer(
            name=node.name,
            op=node.op_type,
            kernel=shape[2:] if is_convolution else (),
            channels=weight_channels(node, shape, groups),
            groups=groups,
            depthwise=is_convolution and groups > 1 and shape[1:2] == (1,),
            macs=self.macs.get(node.name, 0),
            precision="int8" if integers else _precision(data, weight),
            reason="multiplies stored integers" if integers else f"input {data}, weight {weight}",
            input=site.tensor if site else "",
        )

    def _carried(self, tensor: str) -> str:
        """What an input of a node is: float, or its format, and how many scales it has if not one."""
        site = self.sites.get(tensor)
        if site is None:
            return "by Q/DQ of unequal or computed scales" if tensor in self.dequantized else "float"
        if site.params is None:
            return "by Q/DQ of another format"
        return f"{site.params.dtype}{_granularity(site.params)}"


def _granularity(params: QuantParams) -> str:
    scales = " in blocks" if params.block_size else "" if params.axis is None else " per channel"
    return f"{scales} with zero point" if any(params.zero_point) else scales


def _precision(data: str, weight: str) -> str:
    """One word for a layer whose two inputs are these."""
    formats = [carried.partition(" ")[0] for carried in (data, weight)]
    if "float" in formats:
        return "float" if formats[0] == formats[1] else "weights" if formats[0] == "float" else "inputs"
    return formats[0] if formats[0] == formats[1] != "by" else "mixed"
