"""What the corruptions are made of: linear light, smooth random fields, a camera's noise."""

from __future__ import annotations

import functools
from statistics import NormalDist

import cv2
import numpy as np

from avcompress.spec import Array

_WHITE = 65535


def _srgb_tables() -> tuple[Array, Array]:
    """From byte to light, and from 16 bits of light to byte. Source: IEC 61966-2-1."""
    encoded = np.arange(256) / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    light = np.arange(_WHITE + 1) / _WHITE
    srgb = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    return linear.astype(np.float32), np.rint(srgb * 255).astype(np.uint8)


_LINEAR, _SRGB = _srgb_tables()


def to_linear(image: Array) -> Array:
    """Bytes of sRGB -> light, float32, 0-1."""
    return np.asarray(cv2.LUT(image, _LINEAR)).reshape(image.shape)


def to_srgb(light: Array) -> Array:
    """Light, float32, clipped to 0-1 -> bytes of sRGB."""
    # One pass that scales, rounds and saturates; the stubs know no multiplying by a number.
    steps = cv2.multiply(light, _WHITE, dtype=cv2.CV_16U)  # type: ignore[call-overload]
    return np.asarray(np.take(_SRGB, steps.reshape(light.shape)))


def mean_light(light: Array) -> float:
    """The mean of an image's light: what fog, rain and dirt scatter."""
    return float(light[::4, ::4].mean())


def grid(height: int, width: int, coarse: int) -> tuple[Array, Array]:
    """Rows (h, 1) and columns (1, w) at a `coarse`-th of the size: pixel centres as shares, float32, 0-1."""
    rows, columns = -(-height // coarse), -(-width // coarse)
    y = (np.arange(rows, dtype=np.float32) + 0.5) / rows
    x = (np.arange(columns, dtype=np.float32) + 0.5) / columns
    return y[:, None], x[None]


def spread_over(field: Array, height: int, width: int) -> Array:
    """A coarse float32 field at full size, (height, width) or (height, width, C), linear in between."""
    return np.asarray(cv2.resize(field.astype(np.float32, copy=False), (width, height)))


def plasma(height: int, width: int, cells: int, rng: np.random.Generator) -> Array:
    """A cloud-like field, (height, width) float32, 0-1: octaves of noise, each twice as fine and 0.6 times as strong.

    Args:
        height: of the field.
        width: of the field.
        cells: of the coarsest octave along the longer side.
        rng: draws the same numbers whatever the size.
    """
    total = np.zeros((height, width), np.float32)
    longer = max(height, width)
    for octave in range(4):
        count, strength = cells << octave, 0.6**octave
        knots = rng.standard_normal((count, count), np.float32)
        shape = (max(2, round(count * height / longer)), max(2, round(count * width / longer)))
        total += strength * cv2.resize(knots[: shape[0], : shape[1]], (width, height), interpolation=cv2.INTER_CUBIC)
    low, high = float(total.min()), float(total.max())
    return (total - low) / max(high - low, 1e-6)


def add_sensor_noise_(light: Array, shot: float, read: float, rng: np.random.Generator) -> Array:
    """Add a sensor's noise to light, in place: variance `shot` * light + `read`²; returns the same array.

    Source: Foi et al., "Practical Poissonian-Gaussian noise modeling", IEEE TIP 2008.
    """
    deviation = np.maximum(light, 0)
    deviation *= np.float32(shot)
    deviation += np.float32(read**2)
    np.sqrt(deviation, out=deviation)
    # Looked up by 16 random bits: four times as fast as drawing normal numbers.
    deviation *= np.take(_normal_table(), rng.integers(0, _WHITE, light.shape, np.uint16, endpoint=True))
    light += deviation
    return light


@functools.cache
def _normal_table() -> Array:
    """(65536,) float32: normal numbers of equal probability, up to 4.3 deviations."""
    inverse = NormalDist().inv_cdf
    upper = np.array([inverse(0.5 + (i + 0.5) / (_WHITE + 1)) for i in range((_WHITE + 1) // 2)], np.float32)
    return np.concatenate([-upper[::-1], upper])
