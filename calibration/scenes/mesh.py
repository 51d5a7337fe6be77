"""Vehicles: small meshes of flat faces, painted far to near."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np

from avcompress.spec import Array
from calibration.scenes.canvas import CAR, TRUCK, VEHICLE, Canvas, circle, pixels
from calibration.scenes.view import NEAR, View
from calibration.scenes.world import Vehicle, VehicleKind

CORNERS = 12
BODY, GLASS, TRIM, TYRE, HUB, TAIL, LAMP, PLATE, CARGO, SILL, FRAME = range(11)

Point = tuple[float, float, float]
_PARTS = ((38, 46, 54), (30, 30, 32), (22, 22, 24), (128, 130, 134))
"""Glass, trim, tyre and hub."""


@dataclass(frozen=True)
class Template:
    """Faces of a vehicle in its own axes (x right, y up, z ahead), scaled to width, height and length of one.

    Attributes:
        points: (F, CORNERS, 3); shorter faces repeat their last corner.
        paint: (F,) index into the palette.
        parent: (F,) the face that a detail lies on; a face's own index where it lies on none.
    """

    points: Array
    paint: Array
    parent: Array


class _Builder:
    """Collects faces in metres, turning each so that its normal points away from the middle."""

    def __init__(self) -> None:
        self.faces: list[Array] = []
        self.paint: list[int] = []
        self.parent: list[int] = []

    def face(self, corners: Sequence[Point] | Array, paint: int, parent: int | None = None) -> int:
        points = np.asarray(corners, np.float64)
        points = np.concatenate((points, np.repeat(points[-1:], CORNERS - len(points), axis=0)))
        outward = points.mean(axis=0) - (0, 0.8, 0)
        if _normals(points[None])[0] @ outward < 0:
            points = points[::-1]
        self.faces.append(points)
        self.paint.append(paint)
        self.parent.append(len(self.faces) - 1 if parent is None else parent)
        return len(self.faces) - 1

    def detail(self, parent: int, spans: tuple[float, float, float, float], paint: int) -> None:
        """A quad on a four-cornered face, between fractions (a0, a1) of one side and (b0, b1) of the other."""
        p, q, r, s = self.faces[parent][:4] if _first(self.faces[parent]) else self.faces[parent][-4:]
        a0, a1, b0, b1 = spans

        def at(a: float, b: float) -> Array:
            spot: Array = (1 - b) * ((1 - a) * p + a * q) + b * ((1 - a) * s + a * r)
            return spot

        self.face(np.stack((at(a0, b0), at(a1, b0), at(a1, b1), at(a0, b1))), paint, parent)

    def wheel(self, place: tuple[float, float], radius: float, flank: int) -> None:
        """A tyre and its hub at (x, z), painted right after the flank they belong to."""
        x, z = place
        ring = circle(CORNERS)
        for share, paint, lift in ((1.0, TYRE, 0.0), (0.58, HUB, 0.004)):
            corners = [(x + np.sign(x) * lift, radius + share * radius * v, z + share * radius * u) for u, v in ring]
            self.face(np.array(corners), paint, flank)

    def tyres(self, half: float, radius: float, ends: tuple[float, float]) -> None:
        for end, z in zip((-1, 1), ends, strict=True):
            for side in (-1, 1):
                a, b = side * half, side * (half - 0.24)
                self.face([(a, 0, z), (b, 0, z), (b, radius * 1.6, z), (a, radius * 1.6, z)], TYRE)
            # The dark underside, seen below the bumper.
            h = half * 0.97
            depth = z + 0.02 * end
            self.face([(-h, 0.17, depth), (h, 0.17, depth), (h, radius * 1.6, depth), (-h, radius * 1.6, depth)], TRIM)

    def done(self, size: Point) -> Template:
        return Template(np.stack(self.faces) / np.array(size), np.array(self.paint), np.array(self.parent))


def _first(points: Array) -> bool:
    """Whether the padding is at the end."""
    return bool((points[-1] == points[-2]).all())


def _normals(points: Array) -> Array:
    """Newell's normals of (F, K, 3): (F, 3), unit length."""
    following = np.roll(points, -1, axis=1)
    total = np.cross(points, following).sum(axis=1)
    unit: Array = total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12)
    return unit


def _car(profile: Sequence[tuple[float, float]], size: Point, belt: tuple[int, int], radius: float) -> Template:
    """A car from its side profile, rear bottom to front bottom as (z, y).

    Args:
        profile: the corners; those from belt[0] to belt[1] are the cabin's.
        size: width, height, length in metres.
        belt: index of the rear and of the front window's lower edge.
        radius: of the wheels.
    """
    make = _Builder()
    half, roof = size[0] / 2, 0.74 * size[0] / 2
    rear, front = belt
    wide = [roof if rear < i < front else half for i in range(len(profile))]
    last = len(profile) - 2
    for i, ((z0, y0), (z1, y1)) in enumerate(pairwise(profile)):
        a, b = wide[i], wide[i + 1]
        quad = make.face([(-a, y0, z0), (a, y0, z0), (b, y1, z1), (-b, y1, z1)], SILL if i in (0, last) else BODY)
        if i in (rear, front - 1):
            make.detail(quad, (0.07, 0.93, 0.08, 0.92), GLASS)
        if i in (1, last - 1):
            _bumper(make, quad, TAIL if i == 1 else LAMP, flip=i != 1)
    for side in (-1, 1):
        flank = _flank(make, profile, (side * half, side * roof), belt)
        for z in (profile[0][0] + 0.19 * size[2], profile[-1][0] - 0.19 * size[2]):
            make.wheel((side * (half + 0.012), z), radius, flank)
    make.tyres(half, radius, (profile[0][0] + 0.12 * size[2], profile[-1][0] - 0.12 * size[2]))
    return make.done(size)


def _bumper(make: _Builder, quad: int, lamp: int, flip: bool) -> None:
    """Lamps, number plate and grille; the quad's second side runs upwards at the rear, downwards at the front."""

    def up(low: float, high: float) -> tuple[float, float]:
        return (1 - high, 1 - low) if flip else (low, high)

    tall = (0.45, 0.95) if lamp == TAIL else (0.5, 0.92)
    make.detail(quad, (0.02, 0.21, *up(*tall)), lamp)
    make.detail(quad, (0.79, 0.98, *up(*tall)), lamp)
    if lamp == LAMP:
        make.detail(quad, (0.25, 0.75, *up(0.45, 0.85)), TRIM)
    make.detail(quad, (0.36, 0.64, *up(0.1, 0.4)), PLATE)


def _flank(
    make: _Builder, profile: Sequence[tuple[float, float]], x: tuple[float, float], belt: tuple[int, int]
) -> int:
    """A side of a car: the door panels, the sill, the cabin and its windows; returns the panels' face."""
    rear, front = belt
    low = [p for i, p in enumerate(profile) if not rear < i < front]
    wall = make.face([(x[0], y, z) for z, y in low], BODY)
    z_rear, z_front = profile[0][0], profile[-1][0]
    y = profile[0][1]
    make.face([(x[0], y, z_rear), (x[0], y, z_front), (x[0], y + 0.12, z_front), (x[0], y + 0.12, z_rear)], SILL, wall)
    top = profile[rear : front + 1]
    corners = [(x[1] if 0 < i < len(top) - 1 else x[0], y, z) for i, (z, y) in enumerate(top)]
    cabin = make.face(corners, BODY)
    (zb0, yb0), (zr0, yr), (zr1, _), (zb1, yb1) = top[0], top[1], top[-2], top[-1]
    middle = 0.5 * (zr0 + zr1) - 0.1
    for low_z, high_z, span in ((zb0, zr0, (0.14, middle - 0.05)), (zb1, zr1, (-0.14, middle + 0.05))):
        sill, edge = 0.5 * (yb0 + yb1), 0.12
        foot, head = sill + edge * (yr - sill), sill + 0.88 * (yr - sill)
        slope = high_z - low_z
        lower, upper = low_z + 0.12 * slope + span[0], low_z + 0.88 * slope + span[0]
        xl, xh = x[0] + 0.12 * (x[1] - x[0]), x[0] + 0.88 * (x[1] - x[0])
        make.face([(xl, foot, lower), (xl, foot, span[1]), (xh, head, span[1]), (xh, head, upper)], GLASS, cabin)
    return wall


def _box(make: _Builder, low: Point, high: Point, paint: int) -> tuple[int, int, int, int]:
    """A box without a floor; returns its left, right, rear and front faces."""
    (x0, y0, z0), (x1, y1, z1) = low, high
    left, right = (make.face([(x, y0, z0), (x, y0, z1), (x, y1, z1), (x, y1, z0)], paint) for x in (x0, x1))
    make.face([(x0, y1, z0), (x1, y1, z0), (x1, y1, z1), (x0, y1, z1)], paint)
    rear = make.face([(x0, y0, z0), (x1, y0, z0), (x1, y1, z0), (x0, y1, z0)], paint)
    front = make.face([(x0, y0, z1), (x1, y0, z1), (x1, y1, z1), (x0, y1, z1)], paint)
    return left, right, rear, front


def _quad(make: _Builder, parent: int, window: tuple[float, float, float, float], paint: int) -> None:
    """A detail x0, x1, y0, y1 in metres on an upright face across the road."""
    x0, x1, y0, y1 = window
    z = float(make.faces[parent][0, 2])
    make.face([(x0, y0, z), (x1, y0, z), (x1, y1, z), (x0, y1, z)], paint, parent)


def _truck(size: Point, axles: tuple[float, ...], cab: float) -> Template:
    """A box on wheels behind a cab of this length; `axles` are fractions of half the length."""
    make = _Builder()
    w, h, length = size[0] / 2, size[1], size[2] / 2
    *_, rear, _ = _box(make, (-w, 0.95, -length), (w, h, length - cab - 0.25), CARGO)
    for x0, x1, y0 in ((-0.04, 0.04, 1.0), (-w + 0.03, -w + 0.15, 1.0), (w - 0.15, w - 0.03, 1.0), (-w, w, h - 0.12)):
        _quad(make, rear, (x0, x1, y0, h), FRAME)
    _cab(make, (w, h, length), cab)
    left, right, tail, _ = _box(make, (-w * 0.92, 0.55, -length + 0.05), (w * 0.92, 0.95, length - cab), TRIM)
    for x in (-w * 0.9, w * 0.62):
        _quad(make, tail, (x, x + w * 0.28, 0.66, 0.86), TAIL)
    _quad(make, tail, (-0.28, 0.28, 0.62, 0.8), PLATE)
    for side, flank in ((-1, left), (1, right)):
        for axle in axles:
            make.wheel((side * (w + 0.012), axle * length), 0.48, flank)
    make.tyres(w, 0.48, (-0.85 * length, 0.85 * length))
    return make.done(size)


def _cab(make: _Builder, half: Point, cab: float) -> None:
    """A driver's cab at the front; `half` is half the width, the height and half the length of the truck."""
    w, h, length = half
    top = 0.8 * h
    *_, nose = _box(make, (-w * 0.97, 0.5, length - cab), (w * 0.97, top, length), BODY)
    _quad(make, nose, (-w * 0.88, w * 0.88, 0.7 * top, 0.95 * top), GLASS)
    _quad(make, nose, (-w * 0.6, w * 0.6, 0.45 * top, 0.6 * top), TRIM)
    _quad(make, nose, (-0.28, 0.28, 0.56, 0.72), PLATE)
    for x in (-w * 0.92, w * 0.6):
        _quad(make, nose, (x, x + w * 0.32, 0.66, 0.9), LAMP)
    z0, z1 = length - 0.75 * cab, length - 0.12 * cab
    for x in (-w * 0.975, w * 0.975):
        make.face([(x, 0.7 * top, z0), (x, 0.7 * top, z1), (x, 0.93 * top, z1), (x, 0.93 * top, z0)], GLASS)


_SEDAN = ((-2.22, 0.3), (-2.28, 0.58), (-2.2, 0.98), (-1.5, 1.02), (-0.85, 1.43), (0.4, 1.45))
_SEDAN_NOSE = ((1.12, 0.98), (2.1, 0.82), (2.26, 0.58), (2.22, 0.3))
_HATCH = ((-1.95, 0.3), (-2.0, 0.58), (-1.97, 0.95), (-1.92, 1.0), (-1.6, 1.46), (0.25, 1.5))
_HATCH_NOSE = ((1.0, 1.0), (1.82, 0.86), (2.0, 0.6), (1.96, 0.3))
_SUV = ((-2.22, 0.38), (-2.3, 0.68), (-2.25, 1.1), (-2.2, 1.14), (-1.9, 1.68), (0.3, 1.72))
_SUV_NOSE = ((1.05, 1.16), (2.1, 1.02), (2.3, 0.7), (2.25, 0.38))
_VAN = ((-2.5, 0.35), (-2.54, 0.62), (-2.52, 1.12), (-2.5, 1.2), (-2.4, 2.1), (1.1, 2.15))
_VAN_NOSE = ((1.95, 1.25), (2.4, 1.05), (2.55, 0.64), (2.5, 0.35))

TEMPLATES: dict[VehicleKind, Template] = {
    "sedan": _car((*_SEDAN, *_SEDAN_NOSE), (1.82, 1.46, 4.5), (3, 6), 0.33),
    "hatch": _car((*_HATCH, *_HATCH_NOSE), (1.76, 1.5, 4.0), (3, 6), 0.32),
    "suv": _car((*_SUV, *_SUV_NOSE), (1.92, 1.72, 4.6), (3, 6), 0.37),
    "van": _car((*_VAN, *_VAN_NOSE), (2.0, 2.15, 5.1), (3, 6), 0.36),
    "truck": _truck((2.4, 3.3, 7.2), (-0.6, 0.72), 1.9),
    "lorry": _truck((2.5, 3.9, 11.0), (-0.72, -0.5, 0.78), 2.2),
}


def corners(vehicle: Vehicle) -> Array:
    """The bounding box's corners in the world (8, 3), those on the ground first."""
    w, h, length = vehicle.size
    ground = np.array([(-w, 0, -length), (w, 0, -length), (w, 0, length), (-w, 0, length)]) / 2
    return _place(np.concatenate((ground, ground + np.array((0, h, 0)))), vehicle)


def _place(points: Array, vehicle: Vehicle) -> Array:
    cos, sin = np.cos(vehicle.yaw), np.sin(vehicle.yaw)
    turn = np.array([(cos, 0, -sin), (0, 1, 0), (sin, 0, cos)])
    placed: Array = points @ turn + np.array((vehicle.x, 0, vehicle.z))
    return placed


def draw_vehicle(canvas: Canvas, view: View, vehicle: Vehicle) -> None:
    """Paint and label one vehicle; one that reaches the camera is left out."""
    template = TEMPLATES[vehicle.kind]
    points = _place(template.points * np.array(vehicle.size), vehicle)
    if points[..., 2].min() < NEAR:
        return
    owner = canvas.own(VEHICLE, TRUCK if vehicle.kind in ("truck", "lorry") else CAR, vehicle.z)
    middles = points.mean(axis=1) - (0, view.camera.height, 0)
    normals = _normals(points)
    facing = (normals * middles).sum(axis=1) < 0
    distance = np.linalg.norm(middles, axis=1)
    order = np.lexsort((np.arange(len(points)), -distance[template.parent]))
    colours = _colours(view, vehicle, template, normals)
    outline = view.camera.project(points)
    shapes = pixels(outline)
    for i in order[facing[order]].tolist():
        cv2.fillPoly(canvas.paint, [shapes[i]], (*colours[i], owner))
    canvas.seal(owner, outline)


def _colours(view: View, vehicle: Vehicle, template: Template, normals: Array) -> list[list[float]]:
    light = view.light
    body = np.array(vehicle.colour)
    tail = (255, 40, 30) if vehicle.braking else (150, 16, 18)
    sky = 0.22 * light.haze if not light.night else np.zeros(3)
    cargo = np.array(vehicle.cargo)
    palette = np.array((body, *_PARTS, tail, (236, 236, 224), (216, 214, 200), cargo, body * 0.55, cargo * 0.6))
    palette[GLASS] += sky
    shaded = light.shade(palette[template.paint], normals, (vehicle.x, vehicle.z))
    if light.night or vehicle.braking:
        lit = {TAIL: (255, 60, 44) if vehicle.braking else (208, 26, 22)}
        if light.night:
            lit[LAMP] = (255, 250, 224)
        for part, colour in lit.items():
            shaded[template.paint == part] = colour
    colours: list[list[float]] = shaded.tolist()
    return colours
