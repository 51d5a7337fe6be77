"""What the placement policy sees of a network, and what it answers: the values that both front ends share.

A front end describes its graph as a GraphView in the vocabulary of ONNX, and in one form, so that two descriptions of
one network differ in nothing but names:
- one Op for every ONNX operator, in topological order; constants are no operators, and neither is what only computes
  constants. `inputs` are in ONNX's order, then what subgraphs capture.
- a mean or maximum over all positions of each channel is a GlobalAveragePool or GlobalMaxPool, whether spelled so,
  as ReduceMean or ReduceMax over the spatial axes, or as an AveragePool or MaxPool with a window as large as its input.
- Resize and Pad say in `moves` whether every output value is an input value or zero: nearest; padding by zeros,
  edge or reflection.
- an operator that the vocabulary lacks keeps any other name ("com.acme.Conv", "torch.cumsum"): it is opaque.
"""

from __future__ import annotations

from dataclasses import dataclass

from avcompress.spec import LayerPlan

Edge = tuple[str, int]
"""One use of a tensor: an operator's name and the index of its input."""


@dataclass(frozen=True)
class Weight:
    """The constant operand of a weighted operator.

    Attributes:
        tensor: its name.
        index: the operator's input that it is.
        axis: its output channels.
    """

    tensor: str
    index: int
    axis: int


@dataclass(frozen=True)
class Op:
    """One operator, in the vocabulary of ONNX.

    Attributes:
        name: unique.
        kind: the ONNX operator type.
        inputs, outputs: tensor names; "" where an optional one is left out.
        weight: of a weighted operator that has a constant one.
        obstacle: why a weighted operator cannot be quantized; "" if it can.
        depthwise: a convolution with one input channel a group.
        macs: multiply-accumulates for one image.
        channels: input and output channels of a weighted operator, of all groups; (0, 0) where unknown.
        groups: of a convolution.
        kernel: the spatial extent of a convolution's weight; () for a matrix product.
        moves: of Resize and Pad: every output value is a value of the first input, or zero.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    weight: Weight | None = None
    obstacle: str = ""
    depthwise: bool = False
    macs: int = 0
    channels: tuple[int, int] = (0, 0)
    groups: int = 1
    kernel: tuple[int, ...] = ()
    moves: bool = False


@dataclass(frozen=True)
class GraphView:
    """A network as the policy sees it: operators in topological order, its outputs, its constants."""

    ops: tuple[Op, ...]
    outputs: tuple[str, ...]
    constants: frozenset[str]


@dataclass(frozen=True)
class Site:
    """One tensor that gets Q/DQ, with one scale for all its uses in `edges`; per channel along `axis` where set."""

    tensor: str
    edges: tuple[Edge, ...]
    axis: int | None = None


@dataclass(frozen=True)
class Placement:
    """What is quantized.

    Attributes:
        activations, weights: in graph order.
        layers: the plan of every weighted operator, in graph order.
        ties: groups of two or more activation sites, by tensor, that should have one scale: the values pass from one to
            the other unchanged, so that one quantized tensor serves all. A tensor is in one group at most; groups, and
            tensors in a group, are in the order of `activations`.
    """

    activations: tuple[Site, ...]
    weights: tuple[Site, ...]
    layers: tuple[LayerPlan, ...]
    ties: tuple[tuple[str, ...], ...] = ()
