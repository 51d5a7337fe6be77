"""Image files, or their bytes, to arrays. Strict: what cannot be read whole is an error, never a grey rectangle."""

from __future__ import annotations

import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from avcompress.spec import Array, DataError

# Pillow knows some forty formats, among them ones that start other programs; images for cameras need five.
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "PPM")

Size = tuple[int, int]
"""Width, height."""


def read_bytes(path: Path) -> bytes:
    """The content of a file; raises DataError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: expected a readable file, got {error.strerror}; check the path") from error


def _open(source: Path | BytesIO, where: object, advice: str, draft: Size | None = None) -> tuple[Image.Image, Size]:
    """The image, and its width and height; a JPEG may be smaller, but no smaller than `draft`."""
    # EXIF orientation is not applied: boxes and masks are drawn on the pixels as they are stored.
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large images: what is too large raises
            image = Image.open(source, formats=FORMATS)
            size = image.size
            with image:
                if draft is not None:
                    image.draft(None, draft)
                image.load()
    except Exception as error:  # damaged files make the decoders raise nearly anything
        raise DataError(f"{where}: expected a readable image, got {_reason(source, error)}; {advice}") from error
    return image, size


def _reason(source: Path | BytesIO, error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if not isinstance(error, UnidentifiedImageError):
        return str(error).rstrip(".") or type(error).__name__
    start = _first_bytes(source)
    return f"something else that begins with {start!r}" if start else "an empty file"


def _first_bytes(source: Path | BytesIO) -> bytes:
    if isinstance(source, BytesIO):
        return source.getvalue()[:16]
    with source.open("rb") as file:
        return file.read(16)


_SKIP = "replace the file, or leave it out with on_bad_image: skip"
MASK_ADVICE = "replace the mask, or remove its image, too"


def decode_image(path: Path, advice: str = _SKIP) -> Array:
    """The pixels of an image file: (H, W, 3) uint8, RGB; grey is repeated, transparency dropped, 16 bit cut to 8.

    Raises DataError, naming the file, when it is missing, truncated, unreadable or implausibly large.
    """
    return _rgb(_open(path, path, advice)[0], path)


def decode_image_bytes(data: bytes, where: str, advice: str) -> Array:
    """What `decode_image` gives for a file of this content; `where` is named in errors."""
    return _rgb(_open(BytesIO(data), where, advice)[0], where)


def decode_draft_bytes(data: bytes, where: str, advice: str, least: Size) -> tuple[Array, Size]:
    """A JPEG at an eighth to the whole of its size, but no smaller than `least`: many times as fast, and as strict.

    `least`: width, height. Returns the pixels, as `decode_image` does, and the width and height that the image has.
    """
    image, size = _open(BytesIO(data), where, advice, least)
    return _rgb(image, where), size


def _rgb(image: Image.Image, where: object) -> Array:
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
            raise DataError(f"{where}: expected integer pixels, got floating point; convert it to 8 bit")
        case _:
            pixels = np.asarray(image.convert("RGB"))
    return np.ascontiguousarray(pixels)


def decode_index_mask(path: Path) -> Array:
    """The raw values of an 8-bit mask, palette not applied: (H, W) uint8; raises DataError."""
    image, _ = _open(path, path, MASK_ADVICE)
    if image.mode not in ("L", "P", "1"):
        raise DataError(
            f"{path}: expected class indices in 8 bit, grey or palette, got a {image.mode} image; "
            "for a colour mask give the `colours` of the classes"
        )
    return np.asarray(image).astype(np.uint8)
