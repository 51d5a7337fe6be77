"""The loss of segmenters: cross entropy by pixel, for networks that exist only as ONNX, too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from avcompress import ranks
from avcompress.spec import DataError, ModelError
from calibration.sample import VOID, Sample

Weights = Sequence[float] | Literal["balanced"] | None


def cross_entropy(outputs: Tensor, samples: Sequence[Sample], class_weights: Weights = None) -> Tensor:
    """The mean over the labelled pixels of the batch, weighted by class; void pixels count nothing.

    Args:
        outputs: (B, C, h, w) logits; of a lower resolution than the masks, they are enlarged bilinearly.
        samples: with masks (H, W), of the network's input size.
        class_weights: one a class; or balanced: 1 / ln(1.05 + the class's share of the batch's labelled pixels).

    Raises ModelError for another shape, DataError for a sample without a mask.
    Source: ENet, arXiv:1606.02147 (balanced).
    """
    masks = _masks(samples).to(outputs.device)
    if not isinstance(outputs, Tensor) or outputs.dim() != 4:
        got = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise ModelError(f"loss cross_entropy: expected logits (B, C, H, W), got {got}; check model.output")
    logits = outputs.float()
    count = logits.shape[1]
    if logits.shape[2:] != masks.shape[1:]:
        logits = F.interpolate(logits, tuple(masks.shape[1:]), mode="bilinear", align_corners=False)
    void = masks == VOID
    if bool(((masks >= count) & ~void).any()):
        largest = int(masks[~void].max())
        raise ModelError(
            f"loss cross_entropy: expected an output of at least {largest + 1} classes, got {count}; check `classes`"
        )
    weights = _weights(class_weights, masks, count).to(logits.device)
    total = F.cross_entropy(logits, masks, weights, ignore_index=VOID, reduction="sum")
    mass = weights[masks[~void]].sum()
    return total / ranks.divisor(mass, 1e-6)


def _masks(samples: Sequence[Sample]) -> Tensor:
    bare = next((sample.name for sample in samples if sample.mask is None), None)
    if bare is not None:
        raise DataError(f"{bare}: expected a mask for loss cross_entropy, got none; check data.train")
    return torch.from_numpy(np.stack([sample.mask for sample in samples if sample.mask is not None])).long()


def _weights(asked: Weights, masks: Tensor, count: int) -> Tensor:
    if asked is None:
        return torch.ones(count)
    if isinstance(asked, str):
        found = torch.bincount(masks[masks != VOID].flatten(), minlength=count).float()
        found = ranks.total(found)
        return 1 / torch.log(1.05 + found / found.sum().clamp(min=1))
    if len(asked) != count:
        raise ModelError(
            f"loss cross_entropy: expected {count} class_weights, one for each channel of the output, got "
            f"{len(asked)}; mend loss_args"
        )
    return torch.tensor(tuple(asked), dtype=torch.float32)
