"""From the painted canvas to the camera's picture: texture, wet roads, glare, rain, blur, noise."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from avcompress.spec import Array
from calibration.scenes.canvas import MARKING, OWN_CAR, PAVEMENT, ROAD, SCALE, Canvas
from calibration.scenes.view import View
from calibration.scenes.world import World

# How strongly each stuff is mottled: sky, building, pole, road, marking, pavement, vegetation, sign, ...
_MOTTLE = np.zeros(256, np.float32)
_MOTTLE[:9] = (0.0, 0.06, 0.06, 0.06, 0.14, 0.08, 0.28, 0.04, 0.03)
_MOTTLE[OWN_CAR:] = 0.05


@dataclass(frozen=True)
class Textures:
    """Noise that scenes cut pieces from: computed once, never changed.

    Attributes:
        fine: (1024, 1024) float32, noise a little wider than a pixel, mean 0.
        grain: (512, 1024, 3) float32, noise a pixel and channel, mean 0 and deviation 1.
        clouds: (512, 1024) float32, 0-1, smooth at many scales.
        asphalt: (512, 512) float32 around 1, tiles of wear for the road.
    """

    fine: Array
    grain: Array
    clouds: Array
    asphalt: Array


def make_textures() -> Textures:
    """The same noise for every seed and on every machine."""
    rng = np.random.default_rng(2024)
    fine = rng.standard_normal((1024, 1024)).astype(np.float32)
    grain = rng.standard_normal((512, 1024, 3)).astype(np.float32)
    clouds = _fractal(rng, (512, 1024), (4, 8, 16, 32, 64, 128), stretch=2)
    asphalt = 1 + 0.22 * (_fractal(rng, (512, 512), (16, 64, 256), stretch=1) - 0.5) + 0.04 * fine[:512, :512]
    return Textures(cv2.GaussianBlur(fine, (3, 3), 0.7), grain, clouds, asphalt.astype(np.float32))


def _fractal(rng: np.random.Generator, size: tuple[int, int], cells: tuple[int, ...], stretch: int) -> Array:
    """Smooth noise summed over scales, spread evenly over 0-1."""
    total = np.zeros(size, np.float32)
    for i, count in enumerate(cells):
        coarse = rng.random((count, max(2, count // stretch * size[1] // size[0])), dtype=np.float32)
        total += cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC) * 0.62**i
    low, high = np.quantile(total, (0.01, 0.99))
    spread: Array = np.clip((total - low) / (high - low), 0, 1)
    return spread


def cut(texture: Array, rng: np.random.Generator, size: tuple[int, int]) -> Array:
    """A piece of a texture from a random place; enlarged where the texture is smaller."""
    height, width = min(size[0], texture.shape[0]), min(size[1], texture.shape[1])
    y = int(rng.integers(texture.shape[0] - height + 1))
    x = int(rng.integers(texture.shape[1] - width + 1))
    piece: Array = texture[y : y + height, x : x + width]
    return piece if piece.shape[:2] == size else cv2.resize(piece, size[::-1], interpolation=cv2.INTER_LINEAR)


def road_grain(view: View, textures: Textures, rng: np.random.Generator, size: tuple[int, int]) -> Array:
    """The asphalt's wear seen in perspective: (h, w) float32 around 1."""
    camera = view.camera
    f, h = camera.focal / SCALE, camera.height
    u, v = camera.centre[0] / SCALE, camera.centre[1] / SCALE
    dense = 24.0
    shift_x, shift_z = rng.uniform(0, 512, 2)
    # Texture (metres * dense) to picture: x = (s - shift) / dense, z likewise; columns f x / z + u, rows f h / z + v.
    to_picture = np.array([(f, u, 0), (0, v, f * h), (0, 1, 0)]) @ np.array(
        [(1 / dense, 0, -shift_x / dense), (0, 1 / dense, -shift_z / dense), (0, 0, 1)]
    )
    grain = cv2.warpPerspective(textures.asphalt, to_picture, size[::-1], flags=cv2.INTER_LINEAR,
                                borderMode=cv2.BORDER_WRAP)  # fmt: skip
    # Far off the texture is finer than a pixel: fade it out instead of letting it sparkle.
    near = np.clip((np.arange(size[0], dtype=np.float32) - v) / (0.35 * size[0]), 0, 1)[:, None]
    faded: Array = 1 + (grain - 1) * near
    return faded


def develop(canvas: Canvas, world: World, textures: Textures, rng: np.random.Generator) -> Array:
    """The finished picture (H, W, 3), uint8 RGB."""
    height, width = canvas.paint.shape[0] // SCALE, canvas.paint.shape[1] // SCALE
    small = cv2.resize(canvas.paint, (width, height), interpolation=cv2.INTER_AREA)[..., :3]
    owner = np.ascontiguousarray(canvas.paint[::SCALE, ::SCALE, 3])
    mottle = cut(textures.fine, rng, (height, width)) * cv2.LUT(owner, _MOTTLE)
    picture = small.astype(np.float32) * (1 + mottle)[..., None]
    if world.raining:
        picture = _wet(picture, owner)
    picture = _glare(picture, world)
    if world.raining:
        picture = _streaks(picture, rng)
    picture = _blur(picture, rng)
    return _expose(picture, world, textures, rng)


def _wet(picture: Array, owner: Array) -> Array:
    """Let the street mirror what is above it, drawn out downwards."""
    height = len(picture)
    long = cv2.blur(picture, (3, height // 4 | 1), anchor=(1, height // 4 - 1))
    street = ((owner == ROAD) | (owner == PAVEMENT) | (owner == MARKING)).astype(np.float32)
    weight = (0.5 * cv2.blur(street, (3, 3)))[..., None]
    mirrored: Array = picture * (1 - weight) * 0.96 + long * weight
    return mirrored


def _glare(picture: Array, world: World) -> Array:
    """Let bright lamps bleed into their surroundings."""
    night = world.weather == "night"
    small = cv2.resize(picture, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    bright = np.maximum(small - (150 if night else 235), 0)
    bloom = cv2.GaussianBlur(bright, (0, 0), 4 if night else 6) * (2.2 if night else 1.0)
    bled: Array = picture + cv2.resize(bloom, (picture.shape[1], picture.shape[0]), interpolation=cv2.INTER_LINEAR)
    return bled


def _streaks(picture: Array, rng: np.random.Generator) -> Array:
    """Falling rain, and a few drops on the glass."""
    height, width = picture.shape[:2]
    sheet = np.zeros((height, width), np.uint8)
    lean = rng.uniform(-0.25, 0.25)
    count = int(width * rng.uniform(0.5, 1.1))
    x, y = rng.uniform(0, width, count), rng.uniform(-10, height, count)
    size = rng.uniform(5, 15, count)
    ends = np.stack((x, y, x + lean * size, y + size), axis=-1).round().astype(np.int32).tolist()
    power = rng.integers(60, 190, count).tolist()
    for (x0, y0, x1, y1), value in zip(ends, power, strict=True):
        cv2.line(sheet, (x0, y0), (x1, y1), value, 1, cv2.LINE_AA)
    falling = cv2.GaussianBlur(sheet, (3, 5), 0).astype(np.float32)[..., None] * (0.34 / 255)
    wet: Array = picture * (1 - falling) + 225 * falling
    return wet


def _blur(picture: Array, rng: np.random.Generator) -> Array:
    kind = rng.random()
    if kind < 0.12:
        length = int(rng.integers(2, 4))
        moved: Array = cv2.blur(picture, (length, 1))
        return moved
    if kind < 0.5:
        soft: Array = cv2.GaussianBlur(picture, (3, 3), rng.uniform(0.35, 0.75))
        return soft
    return picture


def _expose(picture: Array, world: World, textures: Textures, rng: np.random.Generator) -> Array:
    height, width = picture.shape[:2]
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)
    vignette = (1 - np.float32(rng.uniform(0.03, 0.12)) * (x * x + y * y))[..., None]
    tint = (rng.uniform(0.92, 1.1) * rng.uniform(0.975, 1.025, 3)).astype(np.float32)
    noise = rng.uniform(1.0, 3.0) * (1.9 if world.weather == "night" else 1.0)
    exposed = picture * (vignette * tint)
    # Highlights roll off as on a sensor instead of clipping hard.
    exposed = np.minimum(exposed, 0.45 * exposed + 115)
    exposed += noise * cut(textures.grain, rng, (height, width))
    finished: Array = np.clip(exposed, 0, 255).astype(np.uint8)
    return finished
