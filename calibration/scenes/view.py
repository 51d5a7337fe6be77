"""Where the camera is and how the light falls: what turns metres and albedo into pixels and colour.

World axes: x to the right, y up, z forward, metres; the camera stands above the origin.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from avcompress.spec import Array

NEAR = 0.8
"""Metres; nearer points are drawn as if they were here."""


@dataclass(frozen=True)
class Camera:
    """A pinhole camera that looks along z, in canvas pixels.

    Attributes:
        focal: focal length, pixels.
        centre: column and row of the point straight ahead; the row is the horizon.
        height: metres above the ground.
    """

    focal: float
    centre: tuple[float, float]
    height: float

    def project(self, points: Array) -> Array:
        """World (..., 3) to canvas (..., 2)."""
        flat = np.array(points[..., :2])
        flat -= (0.0, self.height)
        flat *= (self.focal, -self.focal)
        flat /= np.maximum(points[..., 2:], NEAR)
        flat += self.centre
        return flat

    def at(self, x: float, y: float, z: float) -> Array:
        """One point: (2,)."""
        scale = self.scale(z)
        return np.array((self.centre[0] + scale * x, self.centre[1] + scale * (self.height - y)))

    def scale(self, z: float) -> float:
        """Canvas pixels a metre at this depth."""
        return self.focal / max(z, NEAR)


@dataclass(frozen=True)
class Light:
    """Sun, sky and headlights.

    Attributes:
        sun: unit vector towards the sun (3,).
        direct: colour of the sun's light (3,), 1 = full.
        ambient: colour of the sky's light (3,).
        haze: what far things fade to (3,), 0-255.
        density: haze a metre.
        beam: strength of the own headlights; 0 by day.
    """

    sun: Array
    direct: Array
    ambient: Array
    haze: Array
    density: float
    beam: float

    @property
    def night(self) -> bool:
        """Whether lamps are lit."""
        return self.beam > 0

    def shade(self, albedo: Array, normals: Array, place: tuple[float, float]) -> Array:
        """Colour (F, 3) of faces with these albedos and unit normals at (x, z) of the world."""
        x, z = place
        lit = self.ambient + self.direct * np.maximum(normals @ self.sun, 0)[:, None]
        if self.night:
            lit = lit + self.headlight(x, z) * (0.35 + 0.65 * np.abs(normals[:, 2:]))
        return self.fade(albedo * lit, z)

    def flat(self, albedo: Array, place: tuple[float, float]) -> Array:
        """Colour (F, 3) of things without a clear normal: people, foliage."""
        x, z = place
        lit = self.ambient + 0.55 * self.direct + self.headlight(x, z)
        return self.fade(albedo * lit, z)

    def fade(self, colours: Array, z: float) -> Array:
        """Mix colours with the haze."""
        clear = np.exp(-self.density * z)
        faded: Array = np.minimum(colours * clear + self.haze * (1 - clear), 255)
        return faded

    def headlight(self, x: float, z: float) -> Array:
        """What the own headlights add at (x, z): (3,)."""
        if not self.beam:
            return np.zeros(3)
        aim = np.exp(-((x / (2.0 + 0.22 * z)) ** 2)) * np.exp(-z / 22)
        warm: Array = np.array((1.0, 0.95, 0.82)) * (self.beam * aim)
        return warm


@dataclass(frozen=True)
class View:
    """What every painter needs."""

    camera: Camera
    light: Light
