"""The light of a weather, the sky, and what stands on the horizon."""

from __future__ import annotations

import cv2
import numpy as np

from avcompress.spec import Array
from calibration.scenes.canvas import BUILDING, SCALE, SKY, VEGETATION, Canvas, pixels
from calibration.scenes.view import Camera, Light, View
from calibration.scenes.world import World


def make_camera(rng: np.random.Generator, height: int, width: int) -> Camera:
    """A dash-cam, in canvas pixels."""
    focal = width * SCALE * rng.uniform(0.86, 1.0)
    centre = (width * SCALE * rng.uniform(0.46, 0.54), height * SCALE * rng.uniform(0.4, 0.48))
    return Camera(float(focal), (float(centre[0]), float(centre[1])), float(rng.uniform(1.3, 1.6)))


def make_light(rng: np.random.Generator, world: World) -> Light:
    """Sun, sky light and haze that go with the weather."""
    side = rng.choice((-1, 1))
    high, turn = rng.uniform(0.55, 1.1), rng.uniform(0.2, 2.3) * side
    if world.weather == "sunset":
        high = rng.uniform(0.28, 0.42)
    # `turn` is measured from straight ahead; beyond a right angle the sun is behind us.
    sun = np.array((np.cos(high) * np.sin(turn), np.sin(high), np.cos(high) * np.cos(turn)))
    direct, ambient, haze, density = {
        "clear": ((0.86, 0.82, 0.72), (0.46, 0.49, 0.55), (196, 210, 224), 0.0028),
        "cloudy": ((0.14, 0.14, 0.13), (0.78, 0.80, 0.83), (198, 202, 206), 0.0055),
        "sunset": ((0.98, 0.66, 0.36), (0.42, 0.40, 0.48), (236, 190, 150), 0.0045),
        "rain": ((0.04, 0.04, 0.04), (0.60, 0.63, 0.67), (160, 168, 176), 0.0105),
        "night": ((0.0, 0.0, 0.0), (0.16, 0.17, 0.22), (26, 28, 40), 0.0075),
    }[world.weather]
    power = rng.uniform(0.88, 1.08)
    beam = rng.uniform(0.75, 1.05) if world.weather == "night" else 0.0
    return Light(
        sun=sun,
        direct=np.array(direct) * power,
        ambient=np.array(ambient) * power,
        haze=np.array(haze, np.float64) * (power if world.weather != "night" else 1),
        density=density * rng.uniform(0.7, 1.4),
        beam=float(beam),
    )


def draw_sky(canvas: Canvas, view: View, world: World, clouds: Array) -> None:
    """Paint the gradient and the clouds, whose density is (H, W) of the picture, float32, 0-1."""
    zenith, share, bright = {
        "clear": ((86, 138, 202), (0.55, 0.95), (248, 248, 250)),
        "cloudy": ((164, 172, 182), (0.2, 0.9), (226, 228, 230)),
        "sunset": ((104, 116, 166), (0.45, 0.95), (252, 200, 150)),
        "rain": ((118, 126, 136), (0.25, 0.9), (176, 182, 188)),
        "night": ((10, 13, 26), (0.5, 1.0), (38, 38, 48)),
    }[world.weather]
    rows, width = max(1, int(view.camera.centre[1]) + 2), canvas.paint.shape[1]
    height = -(-rows // SCALE)
    up = np.linspace(1, 0, height, dtype=np.float32)[:, None, None]
    gradient = np.array(zenith, np.float32) * up + view.light.haze.astype(np.float32) * (1 - up)
    cover = clouds[-height:] if len(clouds) >= height else cv2.resize(clouds, (clouds.shape[1], height))
    dense = np.clip((cover - share[0]) / (share[1] - share[0]), 0, 1)[..., None] * np.sqrt(up)
    sky = gradient * (1 - 0.85 * dense) + np.array(bright, np.float32) * (0.85 * dense)
    sky = np.clip(sky + _sun_glow(view, world, (height, sky.shape[1])), 0, 255)
    full = np.full((*sky.shape[:2], 4), SKY, np.uint8)
    full[..., :3] = sky
    canvas.paint[:rows] = cv2.resize(full, (width, height * SCALE), interpolation=cv2.INTER_LINEAR)[:rows]


def _sun_glow(view: View, world: World, size: tuple[int, int]) -> Array:
    """Brightness around the sun, if it is in front of us: (h, w, 3), or a zero."""
    sun = view.light.sun
    if world.weather not in ("clear", "sunset") or sun[2] < 0.15:
        return np.zeros((1, 1, 3), np.float32)
    u, v = view.camera.project(sun * 1000 + (0, view.camera.height, 0)) / SCALE
    y, x = np.ogrid[: size[0], : size[1]]
    distance = np.hypot(x - u, y - v).astype(np.float32)[..., None] / size[1]
    strength = 150 * np.exp(-distance / 0.1) + 60 * np.exp(-distance / 0.3)
    glow: Array = strength * view.light.direct.astype(np.float32)
    return glow


def draw_skyline(canvas: Canvas, view: View, world: World, rng: np.random.Generator) -> None:
    """Hills or a town far off, down to the horizon."""
    width, horizon = canvas.paint.shape[1], view.camera.centre[1]
    columns = np.linspace(0, width, 60)
    town = world.setting == "city" or (world.setting == "suburb" and rng.random() < 0.4)
    for distance in (900.0, 420.0, 200.0):
        scale = view.camera.scale(distance)
        if town and distance < 900:
            height = np.repeat(rng.uniform(6, 34, 20), 3)
            colour, owner = (128, 126, 130), BUILDING
        else:
            waves = sum(np.sin(columns / width * k + rng.uniform(0, 6.3)) / k**0.7 for k in (4, 9, 21, 55))
            tall = 40 if distance == 900 else 9
            height = tall * (0.55 + 0.22 * np.asarray(waves)) + rng.uniform(0, 1.2, 60)
            colour, owner = (72, 92, 62), VEGETATION
        shade = view.light.flat(np.array([colour], np.float64), (1e3, min(distance, 320.0)))[0]
        top = horizon - np.maximum(height * scale, 1.0)
        outline = np.stack((columns, top), axis=-1)
        outline = np.concatenate((outline, [(width, horizon + 2), (0, horizon + 2)]))
        cv2.fillPoly(canvas.paint, [pixels(outline)], (*shade.tolist(), owner))
