"""How far a network's answers are from another's, by task: what training without labels brings down.

`movement` says it to first order, for all that is small. What one SiLU as HardSwish does is not: of YOLOX-nano's the
same time's worth, chosen by movements and fitted, left an AP of .2756, by distances .2843.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from avcompress.distill.boxes import predictions, response
from avcompress.distill.soft import softmax_divergence
from avcompress.recipe import Detection

Size = tuple[int, int]
"""Height, width."""
Distance = Callable[[Tensor, Tensor], float]
"""Of a network's output from that of the one that is right, both (N, ...): 0 where they are the same."""


def distance_of_detector(task: Detection, size: Size) -> Distance:
    """As the loss `response` has it."""

    def distance(output: Tensor, right: Tensor) -> float:
        return float(response(predictions(output, task, size), predictions(right, task, size), 1.0, 1.0))

    return distance


def distance_of_segmenter(output: Tensor, right: Tensor) -> float:
    """The divergence of the softmax of logits (N, C, H, W), the mean over pixels."""
    return float(softmax_divergence(output, right, 1.0))
