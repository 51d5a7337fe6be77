"""What the camera itself does to a picture: motion blur, noise, JPEG, dirt on the lens."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from avcompress.spec import Array
from validation.corruptions.fields import add_sensor_noise_, mean_light, plasma, spread_over, to_linear, to_srgb

_COARSE = 4
_DOUBLINGS = 4
_MUD = np.array((0.50, 0.38, 0.25), np.float32)


class MotionBlur(NamedTuple):
    """The path of a point during the exposure, as a share of the width: turning, everywhere; driving, at the edge."""

    turning: float
    driving: float


class Noise(NamedTuple):
    """Variance of the noise = shot * light + read², with light of 1 at white."""

    shot: float
    read: float


class Jpeg(NamedTuple):
    """libjpeg's quality, 0-100."""

    quality: int


class Dirt(NamedTuple):
    """The share of the picture that dirt lies on, and how much light it stops where it is thickest."""

    covered: float
    opacity: float


MOTION_BLUR = (
    MotionBlur(0.006, 0.010),
    MotionBlur(0.011, 0.018),
    MotionBlur(0.018, 0.030),
    MotionBlur(0.027, 0.045),
    MotionBlur(0.040, 0.065),
)
NOISE = (Noise(0.003, 0.002), Noise(0.008, 0.004), Noise(0.018, 0.008), Noise(0.035, 0.014), Noise(0.060, 0.020))
JPEG = (Jpeg(30), Jpeg(18), Jpeg(12), Jpeg(8), Jpeg(5))
DIRT = (Dirt(0.04, 0.60), Dirt(0.09, 0.70), Dirt(0.15, 0.78), Dirt(0.23, 0.85), Dirt(0.32, 0.92))


def motion_blur(image: Array, level: MotionBlur, rng: np.random.Generator) -> Array:
    """Blur along the path of each pixel: sideways as in a turn, or away from the vanishing point as on a road.

    Both run from half the path before a pixel to half of it behind, so that objects stay where their labels are.
    """
    sideways = rng.random() < 0.5
    centre = rng.uniform((0.42, 0.40), (0.58, 0.50))
    light = to_linear(image)
    if sideways:
        return to_srgb(cv2.sepFilter2D(light, -1, _box(level.turning * image.shape[1]), np.ones(1, np.float32)))
    return to_srgb(_zoomed(light, 1 + 2 * level.driving, centre * image.shape[1::-1]))


def _box(length: float) -> Array:
    """A kernel of ones over 1 + `length` pixels, its ends fractions of a pixel; its sum is 1."""
    reach = int(np.ceil(length / 2))
    covered = np.clip(length / 2 + 1 - np.abs(np.arange(-reach, reach + 1)), 0, 1)
    return np.asarray(covered / covered.sum(), np.float32)


def _zoomed(light: Array, zoom: float, centre: Array) -> Array:
    """The mean of 16 pictures zoomed by 1/sqrt(zoom) to sqrt(zoom): each step doubles how many there are."""
    step = zoom ** (1 / (2**_DOUBLINGS - 1))
    light = _scaled(light, zoom**-0.5, centre)
    for doubling in range(_DOUBLINGS):
        light = cv2.addWeighted(light, 0.5, _scaled(light, step ** (2**doubling), centre), 0.5, 0)
    return light


def _scaled(light: Array, factor: float, centre: Array) -> Array:
    shift = (1 - factor) * centre
    matrix = np.array([[factor, 0, shift[0]], [0, factor, shift[1]]], np.float32)
    return np.asarray(cv2.warpAffine(light, matrix, light.shape[1::-1], borderMode=cv2.BORDER_REPLICATE))


def noise(image: Array, level: Noise, rng: np.random.Generator) -> Array:
    """Shot and read noise of a sensor at a high gain, before gamma: strongest, as seen, in the shadows."""
    return to_srgb(add_sensor_noise_(to_linear(image), level.shot, level.read, rng))


def jpeg(image: Array, level: Jpeg, _: np.random.Generator) -> Array:
    """Encoded at a low quality, and decoded again."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, level.quality])[1]
    decoded = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR))
    return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB))


def dirt(image: Array, level: Dirt, rng: np.random.Generator) -> Array:
    """Mud on the lens, out of focus: blots that stop light and scatter some of their own."""
    height, width = image.shape[:2]
    light = to_linear(image)
    field = plasma(-(-height // _COARSE), -(-width // _COARSE), 7, rng)
    # A worse severity has the same blots, grown, and more of them.
    edge = float(np.quantile(field, 1 - level.covered))
    thick = np.clip((field - edge) / 0.10 + 0.5, 0, 1)
    stopped = cv2.GaussianBlur(thick, (0, 0), max(height / 100 / _COARSE, 0.5)) * np.float32(level.opacity)
    mud = _MUD * np.float32(mean_light(light))
    light -= mud
    light *= spread_over(1 - stopped, height, width)[..., None]
    light += mud
    return to_srgb(light)
