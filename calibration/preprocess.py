"""The only way from an image to a network's input, and of boxes and masks from one to the other.

Calibration, validation and the vehicle all call this. Coordinates are pixel edges: an image spans 0..width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from avcompress.recipe import Preprocess
from avcompress.spec import Array, DataError, RecipeError
from calibration.sample import VOID


@dataclass(frozen=True)
class Geometry:
    """Where an image of width x height lies in the network's input: network = image * scale + offset."""

    scale_x: float
    scale_y: float
    offset_x: float
    offset_y: float
    width: int
    height: int


class _Placed(NamedTuple):
    """The rectangle of the network's input that the resized image covers, in whole pixels."""

    top: int
    left: int
    height: int
    width: int


def _place(height: int, width: int, settings: Preprocess) -> _Placed:
    to_height, to_width = settings.size
    if settings.fit == "stretch":
        return _Placed(0, 0, to_height, to_width)
    # Truncating, in this order of operations, is what YOLOX does; one rounding differs by a row of pixels.
    ratio = min(to_height / height, to_width / width)
    fit_height, fit_width = max(1, int(height * ratio)), max(1, int(width * ratio))
    if settings.anchor == "top_left":
        return _Placed(0, 0, fit_height, fit_width)
    return _Placed((to_height - fit_height) // 2, (to_width - fit_width) // 2, fit_height, fit_width)


def preprocess(image: Array, settings: Preprocess) -> tuple[Array, Geometry]:
    """Resize, pad, reorder the channels and normalize.

    Args:
        image: (H, W, 3) uint8, RGB.
        settings: the network's size and arithmetic.

    Returns:
        (1, 3, height, width) float32, contiguous, and where the image lies in it.

    Raises DataError for anything but an RGB uint8 image.
    Source: YOLOX, yolox/data/data_augment.py `preproc` (letterbox).
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise DataError(f"image: expected (H, W, 3) uint8 RGB, got {image.shape} {image.dtype}; convert it first")
    height, width = image.shape[:2]
    placed = _place(height, width, settings)
    canvas = _fill(_resize(image, placed, cv2.INTER_LINEAR), placed, settings, settings.pad)
    geometry = Geometry(placed.width / width, placed.height / height, placed.left, placed.top, width, height)
    return _normalize(canvas, settings), geometry


def _resize(pixels: Array, placed: _Placed, interpolation: int) -> Array:
    if pixels.shape[:2] == (placed.height, placed.width):
        return pixels
    resized: Array = cv2.resize(
        np.ascontiguousarray(pixels), (placed.width, placed.height), interpolation=interpolation
    )
    return resized


def _fill(pixels: Array, placed: _Placed, settings: Preprocess, value: int) -> Array:
    if pixels.shape[:2] == settings.size:
        return pixels
    canvas = np.full((*settings.size, *pixels.shape[2:]), value, np.uint8)
    canvas[placed.top : placed.top + placed.height, placed.left : placed.left + placed.width] = pixels
    return canvas


def _normalize(pixels: Array, settings: Preprocess) -> Array:
    # A pixel has 256 values: look the results up instead of computing each of them.
    tables = _tables(settings)
    planes = cv2.split(pixels)
    out = np.empty((1, 3, *settings.size), np.float32)
    for channel, plane in enumerate(planes if settings.channels == "rgb" else planes[::-1]):
        out[0, channel] = cv2.LUT(plane, tables[channel])
    return out


def check_preprocess(settings: Preprocess) -> None:
    """Raise RecipeError for a scale, mean or std that leaves no finite input."""
    if not np.isfinite((settings.scale, *settings.mean, *settings.std)).all() or 0 in settings.std:
        raise RecipeError(
            f"preprocess: expected a finite scale, mean and std, std other than 0, got {settings.scale}, "
            f"{settings.mean} and {settings.std}; mend it"
        )


def _tables(settings: Preprocess) -> Array:
    check_preprocess(settings)
    mean, std = np.array(settings.mean)[:, None], np.array(settings.std)[:, None]
    tables: Array = (settings.scale * (np.arange(256) - mean) / std).astype(np.float32)
    return tables


def to_network(xyxy: Array, geometry: Geometry) -> Array:
    """Move boxes, (N, 4), from pixels of the image to pixels of the network's input: float32, not clipped."""
    return (np.asarray(xyxy, np.float32).reshape(-1, 4) * _scale(geometry) + _offset(geometry)).astype(np.float32)


def to_image(xyxy: Array, geometry: Geometry) -> Array:
    """Move boxes, (N, 4), from pixels of the network's input to pixels of the image: float32, clipped to the image."""
    moved = (np.asarray(xyxy, np.float32).reshape(-1, 4) - _offset(geometry)) / _scale(geometry)
    limits = np.array([geometry.width, geometry.height] * 2, np.float32)
    return np.clip(moved, 0, limits).astype(np.float32)


def _scale(geometry: Geometry) -> Array:
    return np.array([geometry.scale_x, geometry.scale_y] * 2, np.float32)


def _offset(geometry: Geometry) -> Array:
    return np.array([geometry.offset_x, geometry.offset_y] * 2, np.float32)


def mask_to_network(mask: Array, settings: Preprocess) -> Array:
    """Place a label mask, (H, W) uint8, as `preprocess` places its image: nearest pixel, VOID in the padding.

    Returns (height, width) uint8 of the network's size. Raises DataError for any other dtype or rank.
    """
    placed = _place(*_mask_size(mask, "uint8"), settings)
    return _fill(_resize(mask, placed, cv2.INTER_NEAREST_EXACT), placed, settings, VOID)


def mask_to_image(mask: Array, geometry: Geometry, settings: Preprocess) -> Array:
    """Cut the padding off a predicted mask and bring it to the image's size, nearest pixel.

    Args:
        mask: (h, w) uint8 or uint16 over the whole network input; smaller where the network predicts at a stride.
        geometry: of the image.
        settings: what the image was preprocessed with.

    Returns (H, W) of the image's size and the mask's dtype. Raises DataError for any other dtype or rank.
    """
    _mask_size(mask, "uint8", "uint16")
    whole = _resize(mask, _Placed(0, 0, *settings.size), cv2.INTER_NEAREST_EXACT)
    placed = _place(geometry.height, geometry.width, settings)
    inside = whole[placed.top : placed.top + placed.height, placed.left : placed.left + placed.width]
    resized = _resize(inside, _Placed(0, 0, geometry.height, geometry.width), cv2.INTER_NEAREST_EXACT)
    # With nothing to resize it would be a view of the caller's mask.
    return np.array(resized)


def _mask_size(mask: Array, *types: str) -> tuple[int, int]:
    if mask.dtype.name not in types or mask.ndim != 2 or not mask.size:
        wanted = " or ".join(types)
        raise DataError(f"mask: expected (H, W) {wanted}, got {mask.shape} {mask.dtype}; convert it first")
    return mask.shape[0], mask.shape[1]
