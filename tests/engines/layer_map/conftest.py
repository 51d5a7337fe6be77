"""Layers, and lines of a builder's log, made by hand."""

from collections.abc import Callable

import pytest

from engines.layer_map import BuilderLayer

TENSOR = (
    "{{ Name: t, Dimensions: [1,16,8,8], Strides: [1024,1,128,16], StrideOrder: [3,0,2,1], Datatype: {}, "
    "Format: (NHWC) Channel major format }}"
)


def _line(name, kind, inputs, constants, outputs, nodes):
    tensors = [", ".join(f" {TENSOR.format(t)}" for t in types) for types in (inputs, constants, outputs)]
    metadata = "\x1f".join(f"[ONNX Layer: {node}]" for node in nodes)
    return (
        f"Name: {name}, LayerType: {kind}, Inputs: [{tensors[0]}], Constants: [{tensors[1]}], "
        f"Outputs: [{tensors[2]}], TacticName: __myl_x, StreamId: 0, EventId: 3, Metadata: {metadata}"
    )


def _layer(name, kind, inputs, constants, *nodes, **facts):
    return BuilderLayer(name, kind, inputs, constants, ("Float",), nodes, **facts)


@pytest.fixture(scope="session")
def line() -> Callable[..., str]:
    """A line of TensorRT-RTX's log; every tensor has 1024 values."""
    return _line


@pytest.fixture(scope="session")
def layer() -> Callable[..., BuilderLayer]:
    """A layer by name, kind, types of inputs and constants, and its nodes."""
    return _layer
