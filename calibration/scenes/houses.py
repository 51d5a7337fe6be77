"""Buildings: the wall along the street, the wall towards us, windows, shops and roofs."""

from __future__ import annotations

import numpy as np

from avcompress.spec import Array
from calibration.scenes.canvas import BUILDING, Canvas
from calibration.scenes.view import View
from calibration.scenes.world import Building, Road

_STOREY, _BAY = 3.1, 2.6
"""Metres from window to window, up and along."""
_DETAIL = 4.0
"""A window lower than so many canvas pixels is left out."""


def draw_building(canvas: Canvas, view: View, road: Road, building: Building) -> None:
    """Paint one building; nothing of it is an object with a box."""
    rng = np.random.default_rng(building.seed)
    b = building
    near, far = road.bend(b.z), road.bend(b.z_far)
    style = _style(rng)
    if b.front:
        _wall(canvas, view, np.array([(b.inner + near, 0, b.z), (b.outer + near, 0, b.z)]), (b, style, rng))
    _wall(canvas, view, np.array([(b.inner + near, 0, b.z), (b.inner + far, 0, b.z_far)]), (b, style, rng))
    if b.roof > 0:
        _roof(canvas, view, b, (near, far))


def _style(rng: np.random.Generator) -> Array:
    """Window width, foot and head as fractions of a bay and a storey; then three channels of the shop's colour."""
    panes = rng.uniform((0.38, 0.22, 0.74), (0.7, 0.34, 0.86))
    return np.concatenate((panes, rng.uniform(40, 190, 3)))


def _wall(canvas: Canvas, view: View, base: Array, look: tuple[Building, Array, np.random.Generator]) -> None:
    b, style, rng = look
    along = base[1] - base[0]
    length, depth = float(np.hypot(along[0], along[2])), float(base[:, 2].mean())
    floors, bays = max(1, round(b.height / _STOREY)), max(1, round(length / _BAY))
    normal = np.array((0, 0, -1.0)) if along[2] == 0 else np.array((-np.sign(b.inner), 0, 0))
    wall = np.array(b.colour)
    albedo = np.stack((wall, wall * 0.72, style[3:], (54, 66, 80), (120, 142, 160)))
    shaded = view.light.shade(albedo, np.repeat(normal[None], 5, axis=0), (float(base[0, 0]), depth)).tolist()
    shop = b.roof == 0
    storey = 1 / floors
    cells = [(0, 1, 0, 1), (0, 1, 1 - 0.12 * storey, 1), (0, 1, 0.74 * storey, 0.95 * storey)]
    height = view.camera.scale(depth) * _STOREY * (style[2] - style[1])
    grid = _grid(bays, floors, style, shop) if height > _DETAIL else np.empty((0, 4))
    quads = view.camera.project(_panels(base, b.height, np.concatenate((np.array(cells), grid))))
    # A roof hides the upper edge, and a house has no shop.
    for i in range(3 if shop else 1):
        canvas.fill(quads[i : i + 1], shaded[i], BUILDING)
    _windows(canvas, view, (quads[3:], shaded[3], shaded[4]), rng)


def _windows(
    canvas: Canvas, view: View, panes: tuple[Array, list[float], list[float]], rng: np.random.Generator
) -> None:
    """Fill the panes: dark, with the sky in them, or lit."""
    quads, dark, bright = panes
    if not len(quads):
        return
    kind = rng.random(len(quads))
    lit = 0.45 if view.light.night else 0.03
    glow = [255.0, 214.0, 136.0] if view.light.night else [206.0, 196.0, 160.0]
    for chosen, colour in ((kind < lit, glow), ((kind >= lit) & (kind < 0.72), dark), (kind >= 0.72, bright)):
        canvas.fill(quads[chosen], colour, BUILDING)


def _grid(bays: int, floors: int, style: Array, shop: bool) -> Array:
    """Window rectangles a0, a1, b0, b1 as fractions of the wall: (N, 4); shop windows fill the ground floor."""
    wide, low, high = style[:3]
    row, column = np.divmod(np.arange(floors * bays), bays)
    cells = np.empty((floors * bays, 4))
    cells[:, 0] = (column + 0.5 - wide / 2) / bays
    cells[:, 1] = cells[:, 0] + wide / bays
    cells[:, 2] = (row + low) / floors
    cells[:, 3] = (row + high) / floors
    if shop:
        first = np.arange(bays) / bays
        cells[:bays, 0], cells[:bays, 1] = first + 0.06 / bays, first + 0.94 / bays
        cells[:bays, 2:] = 0, 0.7 / floors
    return cells


def _panels(base: Array, height: float, cells: Array) -> Array:
    """Corners in the world of rectangles a0, a1, b0, b1 on a wall: (N, 4, 3)."""
    points = base[0] + (base[1] - base[0]) * cells[:, (0, 1, 1, 0), None]
    points[..., 1] = cells[:, (2, 2, 3, 3)] * height
    corners: Array = points
    return corners


def _roof(canvas: Canvas, view: View, b: Building, bends: tuple[float, float]) -> None:
    """A ridge along the street: the gable towards us and the slope towards the street."""
    near, far = bends
    ridge, top = 0.5 * (b.inner + b.outer), b.height + b.roof
    side = np.sign(b.inner)
    eave = b.inner - side * 0.4
    low = b.height - 0.15
    slope = np.array([(eave + near, low, b.z - 0.3), (eave + far, low, b.z_far), (ridge + far, top, b.z_far),
                      (ridge + near, top, b.z - 0.3)])  # fmt: skip
    gable = np.array([(b.inner + near, b.height, b.z), (b.outer + near, b.height, b.z), (ridge + near, top, b.z)])
    tiles = ((128, 62, 46), (96, 88, 88), (110, 74, 58))[b.seed % 3]
    normals = np.array([(-side * 0.6, 0.8, 0), (0, 0, -1.0)])
    shaded = view.light.shade(np.array([tiles, np.array(b.colour) * 0.95]), normals, (b.inner + near, b.z)).tolist()
    canvas.fill([view.camera.project(gable)], shaded[1], BUILDING)
    canvas.fill([view.camera.project(slope)], shaded[0], BUILDING)
