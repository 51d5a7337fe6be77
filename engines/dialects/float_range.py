"""Tensors whose values do not fit FP16: what reads or writes them stays FP32.

A calibration saw only some images: a tensor that came within a factor of two of the format's end is taken to pass it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import onnx

from avcompress.spec import TensorRange
from engines.onnx_graph import node_inputs
from engines.qdq import LIMITS, qdq_sites

LARGEST, SMALLEST = 65504.0, 2.0**-14
"""FP16's largest number, and the smallest with all its digits. Source: IEEE 754, binary16."""
HEADROOM = 2.0


def seen_ranges(model: onnx.ModelProto, ranges: Mapping[str, TensorRange]) -> dict[str, float]:
    """The largest magnitude that is known of each tensor: what calibration saw, or how far its grid reaches.

    Args:
        model: with Q/DQ.
        ranges: by tensor name, from calibration.
    """
    found = {name: float(np.abs([*each.low, *each.high]).max()) for name, each in ranges.items()}
    for site in qdq_sites(model):
        if site.params is not None and not site.constant:
            low, high = LIMITS[site.params.dtype]
            reach = max(
                scale * max(high - zero, zero - low)
                for scale, zero in zip(site.params.scale, site.params.zero_point, strict=True)
            )
            for name in (site.tensor, site.output):
                # What lies beyond the grid was seen all the same, and stands in the graph before it is clipped.
                found[name] = max(found.get(name, 0.0), reach)
    return found


def outside_fp16(model: onnx.ModelProto, largest: Mapping[str, float]) -> dict[str, str]:
    """The nodes that read or write a tensor which does not fit FP16, by name, and why.

    Args:
        model: with unique node names.
        largest: magnitudes by tensor name; tensors that are always zero fit.
    """
    found: dict[str, str] = {}
    for node in model.graph.node:
        problem = next(_problems((*node_inputs(node), *node.output), largest), None)
        if problem is not None:
            found[node.name] = problem
    return found


def _problems(tensors: Iterable[str], largest: Mapping[str, float]) -> Iterator[str]:
    for tensor in tensors:
        size = largest.get(tensor, 0.0)
        if size * HEADROOM > LARGEST:
            yield f"tensor {tensor!r} reaches {size:.4g}, near FP16's {LARGEST:g}"
        elif 0 < size < SMALLEST:
            yield f"tensor {tensor!r} stays below {size:.2g}, where FP16 has few digits"
