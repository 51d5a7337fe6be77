"""Weights that an ONNX file keeps in another file, beside it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, external_data_helper, helper

from avcompress.spec import ModelError
from engines.onnx_graph import first_line

_LARGEST_BYTES = 2**31  # of a protobuf message
_HALF_BYTES = frozenset({TensorProto.UINT4, TensorProto.INT4, TensorProto.FLOAT4E2M1})


def stored_tensors(model: onnx.ModelProto) -> list[TensorProto]:
    """The tensors whose values are in another file: initializers, constants, and those of subgraphs."""
    return [each for each in _tensors(model.graph) if external_data_helper.uses_external_data(each)]


def load_weights_(model: onnx.ModelProto, folder: Path) -> None:
    """Read them from that folder into the model.

    Raises ModelError where they are missing, truncated, or with the rest too much for one graph.
    """
    stored = stored_tensors(model)
    size = model.ByteSize() + sum(_stored_bytes(tensor) for tensor in stored)
    if size >= _LARGEST_BYTES:
        raise ModelError(
            f"expected a network of less than 2 GB, protobuf's limit for one graph, got {size / 2**30:.1f} GB with its "
            "weights; export only the part that sees images"
        )
    for tensor in stored:
        location = external_data_helper.ExternalDataInfo(tensor).location
        if not (folder / location).is_file():
            raise ModelError(
                f"expected the weights file {location!r} beside it, got nothing of that name; copy both together"
            )
        try:
            external_data_helper.load_external_data_for_tensor(tensor, str(folder))
        except (OSError, ValueError, RuntimeError, onnx.checker.ValidationError) as error:
            raise ModelError(
                f"expected readable weights of {tensor.name!r} in {location!r}, got: {first_line(error)}; "
                "export the model again"
            ) from error
        found, needed = len(tensor.raw_data), _stored_bytes(tensor)
        if found < needed:
            raise ModelError(
                f"expected {needed} bytes of {tensor.name!r} in {location!r}, got {found}; copy the weights again"
            )
        # The data is in memory now; older versions of ONNX keep the marks of where it was.
        tensor.data_location = TensorProto.DEFAULT
        del tensor.external_data[:]


def _tensors(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for attribute in (attribute for node in graph.node for attribute in node.attribute):
        if attribute.HasField("t"):
            yield attribute.t
        for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            yield from _tensors(inner)


def _stored_bytes(tensor: TensorProto) -> int:
    values = int(np.prod(tensor.dims))
    if tensor.data_type in _HALF_BYTES:
        return (values + 1) // 2
    try:
        return values * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    except KeyError:
        raise ModelError(
            f"expected weights of a type that ONNX has, got type {tensor.data_type} of {tensor.name!r}; export it again"
        ) from None
