"""What happens to light before the camera encodes it: night, glare, and wrong exposure."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from avcompress.spec import Array
from validation.corruptions.fields import add_sensor_noise_, grid, spread_over, to_linear, to_srgb

_COARSE = 8  # gain and bloom are smooth: drawn at an eighth of the size
_HORIZON = 0.45
_MOONLIGHT = np.array((0.80, 0.92, 1.15), np.float32)
_HEADLIGHT = np.array((1.05, 1.00, 0.80), np.float32)
_SUNLIGHT = np.array((1.00, 0.96, 0.86), np.float32)


class Night(NamedTuple):
    """What is left of daylight, as a share; what headlights add on the road; shot and read noise (see Noise)."""

    ambient: float
    headlights: float
    shot: float
    read: float


class Glare(NamedTuple):
    """The light of the bloom's core, its radius as a share of the shorter side, and the veil over the whole image.

    Lights are in units of white.
    """

    core: float
    radius: float
    veil: float


class Exposure(NamedTuple):
    """Stops of exposure, negative for too little, and what the black level swallows, as a share of white."""

    stops: float
    black: float = 0.0


NIGHT = (
    Night(0.32, 0.25, 0.0008, 0.0008),
    Night(0.19, 0.21, 0.0012, 0.0012),
    Night(0.12, 0.17, 0.0018, 0.0016),
    Night(0.075, 0.14, 0.0026, 0.0022),
    Night(0.045, 0.11, 0.0036, 0.0030),
)
GLARE = (
    Glare(1.0, 0.09, 0.02),
    Glare(1.8, 0.12, 0.04),
    Glare(3.0, 0.15, 0.07),
    Glare(4.5, 0.19, 0.12),
    Glare(6.5, 0.24, 0.19),
)
EXPOSURE = (Exposure(0.7), Exposure(1.2), Exposure(1.7), Exposure(2.3), Exposure(3.0))
UNDER_EXPOSURE = (
    Exposure(-1.0, 0.0005),
    Exposure(-1.8, 0.001),
    Exposure(-2.6, 0.0015),
    Exposure(-3.4, 0.002),
    Exposure(-4.2, 0.0025),
)


def night(image: Array, level: Night, rng: np.random.Generator) -> Array:
    """Daylight taken away, most of it from the sky, headlights on the road ahead, and the noise of a high gain."""
    height, width = image.shape[:2]
    y, x = grid(height, width, _COARSE)
    # The sky is the brightest part by day and the darkest by night.
    sky = np.clip((_HORIZON - y) / _HORIZON, 0, 1)
    ambient = level.ambient * (1 - 0.8 * sky)
    pool = level.headlights * np.exp(-(((x - 0.5) / 0.32) ** 2) - ((y - 0.78) / 0.20) ** 2)
    gain = ambient[..., None] * _MOONLIGHT + pool[..., None] * _HEADLIGHT
    light = to_linear(image)
    light *= spread_over(gain, height, width)
    return to_srgb(add_sensor_noise_(light, level.shot, level.read, rng))


def glare(image: Array, level: Glare, rng: np.random.Generator) -> Array:
    """The sun, or a lamp, in the upper half: a bloom with rays, and a veil of scattered light over everything."""
    height, width = image.shape[:2]
    centre_x, centre_y, turn = rng.uniform((0.15, 0.06, 0.0), (0.85, 0.42, np.pi))
    y, x = grid(height, width, _COARSE // 2)
    shorter = min(height, width)
    right, down = (x - centre_x) * (width / shorter), (y - centre_y) * (height / shorter)
    distance = np.hypot(right, down) / level.radius
    rays = 1 + 0.5 * np.cos(4 * np.arctan2(down, right) + turn) ** 8
    bloom = level.core * (np.exp(-4 * distance) + 0.05 * rays / (1 + distance**2)) + level.veil
    light = to_linear(image)
    light += spread_over(bloom[..., None] * _SUNLIGHT, height, width)
    return to_srgb(light)


def exposure(image: Array, level: Exposure, _: np.random.Generator) -> Array:
    """Too much light, clipped at white, or too little, of which black swallows some and 8 bits keep few steps."""
    steps = np.arange(256, dtype=np.uint8).reshape(-1, 1, 1)
    table = to_srgb(to_linear(steps) * np.float32(2.0**level.stops) - np.float32(level.black))
    return np.asarray(cv2.LUT(image, table.ravel()))
