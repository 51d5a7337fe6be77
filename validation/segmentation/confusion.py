"""Pixels counted by what their label says and what was predicted there."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from avcompress.spec import Array, DataError, EngineError
from calibration.sample import VOID


def confusion(
    label: NDArray[np.uint8], predicted: NDArray[np.uint8], classes: int, where: str = "mask"
) -> NDArray[np.int64]:
    """Count the labelled pixels by (label, prediction): (classes, classes + 1), the last column for other indices.

    Raises EngineError when the masks differ in size, DataError when a label is neither 255 nor below `classes`.
    """
    return count_codes(pair_codes(label, predicted, classes, where), classes)


def pair_codes(
    label: NDArray[np.uint8], predicted: NDArray[np.uint8], classes: int, where: str = "mask"
) -> NDArray[np.uint16]:
    """Label and prediction of each pixel as one number, (H, W): label * (classes + 1) + min(prediction, classes).

    Raises as `confusion` does.
    """
    if predicted.shape != label.shape:
        raise EngineError(
            f"{where}: expected a mask of {label.shape}, got {predicted.shape}; "
            "predictions are judged at the label's size"
        )
    unknown = (label >= classes) & (label != VOID)
    if unknown.any():
        raise DataError(
            f"{where}: expected class indices below {classes} or {VOID}, got {label[unknown].max()}; "
            "list it in `void` or give its class a name"
        )
    codes: NDArray[np.uint16] = label.astype(np.uint16) * np.uint16(classes + 1)
    return codes + np.minimum(predicted, classes)


def count_codes(codes: Array, classes: int) -> NDArray[np.int64]:
    """How often each code occurs, (classes, classes + 1); those of unlabelled pixels are left out."""
    inside = classes * (classes + 1)
    counts = np.bincount(codes.ravel(), minlength=inside)[:inside]
    return counts.astype(np.int64).reshape(classes, classes + 1)
