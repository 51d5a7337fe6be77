"""What is in the air between the camera and the road: fog and rain."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from avcompress.spec import Array
from validation.corruptions.fields import mean_light, plasma, spread_over, to_linear, to_srgb

_HORIZON = 0.45
_FARTHEST = 7.0
_COARSE = 4
_BASE_HEIGHT = 480  # lengths in pixels are those of an image this high
_MOST_STREAKS = 1400
_STREAK_SHADES = ((70, 1), (130, 1), (220, 2))  # faint and thin ones first: near ones are drawn over them


class Fog(NamedTuple):
    """Extinction over the distance to the image's lower edge, and how much of it the plasma moves, 0-1."""

    extinction: float
    patches: float


class Rain(NamedTuple):
    """Streaks in an image, their length in pixels at 480 rows, and what they cover at most, 0-1.

    Beside them: light left of 1, the mist's extinction as in Fog, and blur, the deviation in pixels at 480 rows.
    """

    streaks: int
    length: float
    cover: float
    light: float
    mist: float
    blur: float


FOG = (Fog(0.040, 0.5), Fog(0.072, 0.5), Fog(0.12, 0.55), Fog(0.19, 0.6), Fog(0.30, 0.6))
RAIN = (
    Rain(250, 20, 0.22, 0.88, 0.012, 0.3),
    Rain(450, 26, 0.28, 0.76, 0.025, 0.5),
    Rain(700, 33, 0.34, 0.64, 0.045, 0.7),
    Rain(1000, 40, 0.40, 0.52, 0.070, 0.9),
    Rain(_MOST_STREAKS, 48, 0.46, 0.42, 0.110, 1.2),
)


def _distance(height: int) -> Array:
    """(H, 1) float32: how far the road is at each row, 1 at the lower edge, 7 from the horizon up.

    There is no depth map: on a flat road the distance goes as one over the rows below the horizon, which is taken to
    be at 45 % of the height. A near thing that stands above the horizon is taken to be far.
    """
    rows = (np.arange(height, dtype=np.float32) + 0.5) / height
    below = np.maximum((rows - _HORIZON) / (1 - _HORIZON), 0)
    # Bent smoothly into the farthest: a kink would show as a line across the picture.
    return (1 / np.hypot(below, 1 / _FARTHEST))[:, None]


def _scattered(light: Array, transmission: Array, air: float) -> Array:
    """Koschmieder's law in place: what comes through, and the light of the air in place of the rest."""
    light -= np.float32(air)
    light *= transmission[..., None]
    light += np.float32(air)
    return light


def fog(image: Array, level: Fog, rng: np.random.Generator) -> Array:
    """Fog that thickens with the distance, in patches; as bright as the scene lets it be."""
    height, width = image.shape[:2]
    light = to_linear(image)
    patches = plasma(-(-height // _COARSE), -(-width // _COARSE), 3, rng)
    density = 1 + level.patches * (2 * patches - 1)
    depth = spread_over(density, height, width) * _distance(height)
    air = min(max(2.0 * mean_light(light), 0.03), 0.8)
    return to_srgb(_scattered(light, cv2.exp(depth * np.float32(-level.extinction)), air))


def rain(image: Array, level: Rain, rng: np.random.Generator) -> Array:
    """Streaks of falling rain in one direction, mist in the distance, less light, and a wet windscreen's blur."""
    height, width = image.shape[:2]
    scale = height / _BASE_HEIGHT
    light = to_linear(cv2.GaussianBlur(image, (0, 0), max(level.blur * scale, 0.2)))
    light *= np.float32(level.light)
    mean = mean_light(light)
    mist = cv2.exp(_distance(height) * np.float32(-level.mist))
    light = _scattered(light, mist, min(2.0 * mean, 0.8))
    cover = _streaks(height, width, level, rng).astype(np.float32) * np.float32(level.cover / 255)
    # Drops show the sky upside down: they are brighter than most of the scene.
    return to_srgb(_scattered(light, 1 - cover, min(max(3.0 * mean, 0.05), 0.9)))


def _streaks(height: int, width: int, level: Rain, rng: np.random.Generator) -> Array:
    """(H, W) uint8: how much of each pixel streaks cover."""
    slant = rng.uniform(-0.35, 0.35)
    # All numbers are drawn at every severity, so that a worse one has the same streaks and more.
    starts = rng.random((_MOST_STREAKS, 2), np.float32)[: level.streaks]
    size = rng.random((_MOST_STREAKS, 1), np.float32)[: level.streaks]
    lean = slant + 0.06 * rng.standard_normal((_MOST_STREAKS, 1), np.float32)[: level.streaks]
    length = level.length * (height / _BASE_HEIGHT) * (0.4 + 1.2 * size)
    # Room around the image for streaks that begin outside it.
    first = starts * np.array((width * 1.2, height * 1.2), np.float32) - (width * 0.1, height * 0.2)
    last = first + np.hstack([np.sin(lean), np.cos(lean)]) * length
    ends = np.stack([first, last], axis=1)
    canvas = np.zeros((height, width), np.uint8)
    near = np.searchsorted((0.5, 0.85), size.ravel())
    for rank, (shade, thickness) in enumerate(_STREAK_SHADES):
        lines = np.rint(ends[near == rank] * 16).astype(np.int32)
        wide = max(1, round(thickness * height / _BASE_HEIGHT))
        cv2.polylines(canvas, list(lines), False, shade, wide, cv2.LINE_AA, shift=4)
    return np.asarray(cv2.GaussianBlur(canvas, (3, 3), 0.6))
