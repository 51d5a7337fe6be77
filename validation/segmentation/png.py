"""Masks as PNG files in memory: some kilobytes instead of megabytes for each image."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from avcompress.spec import DataError


def encode_mask(mask: NDArray[np.uint8]) -> bytes:
    """A PNG of a mask, (H, W) uint8."""
    done, png = cv2.imencode(".png", mask)
    if not done:
        raise ValueError(f"mask: expected (H, W) uint8, got {mask.shape} {mask.dtype}")
    return bytes(png.tobytes())


def decode_mask(png: bytes, where: str = "mask") -> NDArray[np.uint8]:
    """The mask, (H, W) uint8, of a PNG; raises DataError where it is none."""
    mask = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED) if png else None
    if mask is None or mask.ndim != 2 or mask.dtype != np.uint8:
        raise DataError(f"{where}: expected a PNG of one 8-bit channel, got something else; make the masks anew")
    return np.asarray(mask, np.uint8)
