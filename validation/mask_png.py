"""Masks as PNG: a validation set of them fits into memory, and into a file."""

from __future__ import annotations

import struct

import cv2
import numpy as np

from avcompress.spec import Array, DataError, EngineError

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY_8 = (8, 0)  # bit depth, colour type


def encode_mask(mask: Array) -> bytes:
    """The PNG of a mask, (H, W) uint8; raises EngineError for one of more classes than labels can name."""
    if mask.dtype != np.uint8:
        raise EngineError(
            f"mask: expected at most 256 classes, got {mask.dtype} of up to {int(mask.max()) + 1}; labels have 8 bits: "
            "a network of more classes can be served, not validated"
        )
    # Level 1: class maps are so regular that more work saves little.
    _, png = cv2.imencode(".png", np.ascontiguousarray(mask), (cv2.IMWRITE_PNG_COMPRESSION, 1))
    return bytes(png.tobytes())


def decode_mask(png: bytes, where: str = "mask") -> Array:
    """The mask of a PNG, (H, W) uint8; raises DataError, naming `where`, for anything else."""
    mask_size(png, where)
    try:
        mask = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        mask = None
    if mask is None:
        raise DataError(f"{where}: expected a whole PNG, got a damaged one; make the masks anew")
    return np.asarray(mask, np.uint8)


def mask_size(png: bytes, where: str = "mask") -> tuple[int, int]:
    """Height and width, from the PNG's header alone; raises DataError for what is no grey PNG of 8 bit."""
    if len(png) < 26 or png[:8] != _SIGNATURE or png[12:16] != b"IHDR":
        raise DataError(f"{where}: expected a PNG of one 8-bit channel, got {png[:8]!r}; make the masks anew")
    width, height, *kind = struct.unpack(">IIBB", png[16:26])
    if tuple(kind) != _GREY_8:
        raise DataError(f"{where}: expected a PNG of one 8-bit channel, got bits and colour type {kind}; write indices")
    return height, width
