"""What batch normalization knew of a convolution's output, kept at the node after the two were folded into one."""

from __future__ import annotations

import base64
from typing import NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray

from avcompress.spec import Array

_MEAN, _STD = "batch_norm.mean", "batch_norm.std"


class ChannelStatistics(NamedTuple):
    """The mean and the standard deviation of every output channel, each (C,), as training left them."""

    mean: NDArray[np.float32]
    std: NDArray[np.float32]


def read_statistics(node: onnx.NodeProto) -> ChannelStatistics | None:
    """The statistics kept at a node; None where there are none."""
    found = {prop.key: prop.value for prop in node.metadata_props}
    if _MEAN not in found or _STD not in found:
        return None
    mean, std = (np.frombuffer(base64.b64decode(found[key]), "<f4") for key in (_MEAN, _STD))
    return ChannelStatistics(mean, std)


def write_statistics_(node: onnx.NodeProto, mean: Array, std: Array) -> None:
    """Keep statistics at a node, in the place of those that are there."""
    kept = [prop for prop in node.metadata_props if prop.key not in {_MEAN, _STD}]
    props = [*((prop.key, prop.value) for prop in kept), (_MEAN, _encoded(mean)), (_STD, _encoded(std))]
    del node.metadata_props[:]
    for key, value in props:
        node.metadata_props.add(key=key, value=value)


def _encoded(values: Array) -> str:
    return base64.b64encode(np.ascontiguousarray(values, "<f4").tobytes()).decode()
