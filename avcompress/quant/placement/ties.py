"""Which quantized tensors should share one scale.

TensorRT pulls a Q up through every operator that only moves values (Q(move(x)) equals move(Q(x))), so that what is
moved is INT8 already, and the kernel before writes it so. Where the moved tensor is quantized for another use too, one
kernel can write it for both if the two scales are equal; if they are not, it is written in float, or requantized in a
kernel of its own. The same holds for each input of a concatenation. TensorRT-RTX 1.7.1 shows it in its layer log: with
equal scales the skips of a U-Net are written once, in INT8; with unequal ones in INT8 and in FP32, and read in FP32.

Source: NVIDIA TensorRT documentation, "Explicit Quantization" (Q/DQ propagation); NVIDIA Model Optimizer,
onnx/quantization/graph_utils.py, `get_concat_eliminated_tensors`.
"""

from __future__ import annotations

from collections.abc import Sequence

from avcompress.quant.placement.patterns import Links, moved


def ties(sites: Sequence[str], links: Links) -> tuple[tuple[str, ...], ...]:
    """Group the quantized tensors that values pass between unchanged; groups and their tensors in the order of `sites`.

    A moving operator binds only where some of what it moves is quantized later: two inputs of a concatenation that only
    float operators read stay free.
    """
    leader: dict[str, str] = {}
    bound = set(sites)  # tensors that are quantized, or are moved and then quantized
    for op in reversed(links.view.ops):
        sources = moved(op, links)
        outputs = [tensor for tensor in op.outputs if tensor in bound]
        if sources and outputs:
            bound.update(sources)
            for tensor in (*sources, *outputs):
                leader[_find(tensor, leader)] = _find(outputs[0], leader)
    groups: dict[str, list[str]] = {}
    for tensor in sites:
        groups.setdefault(_find(tensor, leader), []).append(tensor)
    return tuple(tuple(group) for group in groups.values() if len(group) > 1)


def _find(tensor: str, leader: dict[str, str]) -> str:
    while leader.get(tensor, tensor) != tensor:
        tensor = leader[tensor]
    return tensor
