"""Image files to arrays. Strict: what cannot be read whole is an error, never a grey rectangle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from avcompress.spec import Array, DataError

# Pillow knows some forty formats, among them ones that start other programs; images for cameras need five.
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "PPM")


def read_bytes(path: Path) -> bytes:
    """The content of a file; raises DataError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: expected a readable file, got {error.strerror}; check the path") from error


def _open(path: Path) -> Image.Image:
    # EXIF orientation is not applied: boxes and masks are drawn on the pixels as they are stored.
    try:
        image = Image.open(path, formats=FORMATS)
        with image:
            image.load()
    except Exception as error:  # damaged files make the decoders raise nearly anything
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise DataError(
            f"{path}: expected a readable image, got {reason or type(error).__name__}; "
            "replace the file, or leave it out with on_bad_image: skip"
        ) from error
    return image


def decode_image(path: Path) -> Array:
    """The pixels of an image file: (H, W, 3) uint8, RGB; grey is repeated, transparency dropped, 16 bit cut to 8.

    Raises DataError, naming the file, when it is missing, truncated, unreadable or implausibly large.
    """
    image = _open(path)
    match image.mode:
        case "RGB":
            pixels = np.asarray(image)
        case "I" | "I;16" | "I;16B" | "I;16L" | "I;16N":
            # The high byte, as OpenCV takes it: Pillow's own conversion saturates instead, and all turns white.
            grey = np.clip(np.asarray(image, np.int32) >> 8, 0, 255).astype(np.uint8)
            pixels = np.repeat(grey[:, :, None], 3, axis=2)
        case "P" | "PA":
            pixels = np.asarray(image.convert("RGBA"))[:, :, :3]
        case "F":
            raise DataError(f"{path}: expected integer pixels, got floating point; convert it to 8 bit")
        case _:
            pixels = np.asarray(image.convert("RGB"))
    return np.ascontiguousarray(pixels)


def decode_index_mask(path: Path) -> Array:
    """The raw values of an 8-bit mask, palette not applied: (H, W) uint8; raises DataError."""
    image = _open(path)
    if image.mode not in ("L", "P", "1"):
        raise DataError(
            f"{path}: expected class indices in 8 bit, grey or palette, got a {image.mode} image; "
            "for a colour mask give the `colours` of the classes"
        )
    return np.asarray(image).astype(np.uint8)
