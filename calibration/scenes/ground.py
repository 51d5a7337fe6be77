"""Road, pavements, markings, and the light and shadow that lies on them."""

from __future__ import annotations

import cv2
import numpy as np

from avcompress.spec import Array
from calibration.scenes.canvas import (
    MARKING,
    PAVEMENT,
    ROAD,
    SCALE,
    VEGETATION,
    Canvas,
    circle,
    pixels,
)
from calibration.scenes.mesh import corners
from calibration.scenes.view import Camera, View
from calibration.scenes.world import Building, Person, Post, Road, Thing, Tree, Vehicle, World

_REACH = 260.0
_SHADOWED = 70.0
"""Metres; shadows farther off are thinner than a pixel."""
_KERB = 0.18
_UNIT = 128.0
"""The canvas value of a light of strength one, in the map that the ground is multiplied with."""


def draw_ground(canvas: Canvas, view: View, world: World, rng: np.random.Generator) -> None:
    """Paint everything flat, in albedo; `light_ground` follows."""
    road, camera = world.road, view.camera
    row = max(0, int(camera.centre[1]))
    soil = {"city": (124, 120, 114), "suburb": (92, 110, 58), "country": (104, 116, 56)}[world.setting]
    owner = PAVEMENT if world.setting == "city" else VEGETATION
    canvas.paint[row:] = (*soil, owner)
    grey = rng.uniform(74, 104) * (0.72 if world.raining else 1.0)
    asphalt = np.array((grey * 1.0, grey * 1.01, grey * 1.03))
    slabs = np.array((150, 146, 138)) * rng.uniform(0.85, 1.1)
    if road.pavement:
        for kerb, outer in ((road.left, road.left - road.pavement), (road.right, road.right + road.pavement)):
            canvas.fill([_strip(camera, road, kerb, outer)], slabs.tolist(), PAVEMENT)
            edge = kerb - _KERB if kerb == road.left else kerb + _KERB
            canvas.fill([_strip(camera, road, kerb, edge)], (slabs * 0.78).tolist(), PAVEMENT)
    canvas.fill([_strip(camera, road, road.left, road.right)], asphalt.tolist(), ROAD)
    if road.parking:
        for kerb, inner in ((road.left, road.left + road.parking), (road.right - road.parking, road.right)):
            canvas.fill([_strip(camera, road, kerb, inner)], (asphalt * 0.93).tolist(), ROAD)
    if road.side_road:
        z0, z1 = road.side_road
        for outer in (0.0, 1.6 if road.pavement else 0.0):
            colour, kind = (slabs, PAVEMENT) if outer == 0 and road.pavement else (asphalt, ROAD)
            grow = 1.6 - outer if road.pavement else 0.0
            area = np.array([(-120, 0, z0 - grow), (120, 0, z0 - grow), (120, 0, z1 + grow), (-120, 0, z1 + grow)])
            area[:, 0] += road.bend((z0 + z1) / 2)
            canvas.fill([camera.project(area)], colour.tolist(), kind)
        canvas.fill([_strip(camera, road, road.left, road.right, (max(1.0, z0 - 2), z1 + 2))], asphalt.tolist(), ROAD)
    _markings(canvas, camera, road, rng)


def _strip(camera: Camera, road: Road, a: float, b: float, span: tuple[float, float] = (0.9, _REACH)) -> Array:
    """The outline (K, 2) of the ground between two lateral positions."""
    z = np.geomspace(span[0], span[1], 28)
    bend = road.bends(z)
    left = np.stack((a + bend, np.zeros_like(z), z), axis=-1)
    right = np.stack((b + bend, np.zeros_like(z), z), axis=-1)
    return camera.project(np.concatenate((left, right[::-1])))


def _bar(road: Road, x: tuple[float, float], z: tuple[float, float]) -> Array:
    """A marking on the ground: (4, 3)."""
    near, far = road.bend(z[0]), road.bend(z[1])
    return np.array([(x[0] + near, 0, z[0]), (x[1] + near, 0, z[0]), (x[1] + far, 0, z[1]), (x[0] + far, 0, z[1])])


def _markings(canvas: Canvas, camera: Camera, road: Road, rng: np.random.Generator) -> None:
    start = rng.uniform(-3, 3)
    bars: list[Array] = []
    stop = road.zebra[0] - 1.3 if road.zebra else _REACH
    for x, dashed in road.lines:
        step, length = (9.0, 3.6) if dashed else (4.0, 4.0)
        z = 1.0 + (start + 3 if dashed else 0.0)
        while z < (90 if dashed else 140):
            clear = not road.crossed(z, z + length, 2.0) and not (road.zebra and stop < z + length and z < stop + 5)
            if clear:
                bars.append(_bar(road, (x - 0.08, x + 0.08), (z, z + length)))
            z += step
    if road.zebra:
        z0 = road.zebra[0]
        x = road.left + 0.3
        while x + 0.5 < road.right:
            bars.append(_bar(road, (x, x + 0.5), (z0, z0 + 3)))
            x += 1.0
        inner = min((line for line, _ in road.lines[1:-1] if line < 0), key=abs, default=road.left)
        bars.append(_bar(road, (inner, road.right - road.parking - 0.3), (stop, stop + 0.4)))
    if rng.random() < 0.35:
        bars.extend(_arrows(road, rng))
    paint = np.array((226, 226, 220)) * rng.uniform(0.82, 1.0)
    # One by one: where two overlap, a single call would leave a hole.
    for quad in pixels(camera.project(np.stack(bars))):
        cv2.fillPoly(canvas.paint, [quad], (*paint.tolist(), MARKING))


def _arrows(road: Road, rng: np.random.Generator) -> list[Array]:
    """A straight-on arrow in each of our lanes, as a shaft and a head."""
    z = rng.uniform(6, 16)
    found = []
    for x, direction in road.lanes:
        if direction > 0 and not road.crossed(z, z + 3) and not (road.zebra and abs(road.zebra[0] - z) < 5):
            found.append(_bar(road, (x - 0.09, x + 0.09), (z, z + 2.2)))
            bend = road.bend(z)
            head = [(x - 0.36, z + 2.2), (x + 0.36, z + 2.2), (x + 0.02, z + 3.6), (x - 0.02, z + 3.6)]
            found.append(np.array([(u + bend, 0, v) for u, v in head]))
    return found


def light_ground(canvas: Canvas, view: View, world: World, grain: Array) -> None:
    """Multiply the painted ground with sun, shadow, grain, headlights and lamps, and fade it into the haze.

    `grain` is the asphalt's texture: (H, W) of the picture, float32, around 1.
    """
    camera, light = view.camera, view.light
    height, width = canvas.paint.shape[0] // SCALE, canvas.paint.shape[1] // SCALE
    top = min(height - 1, max(0, int(camera.centre[1]) // SCALE))
    shade, contact = _shadows(view, world, (height, width))
    rows = np.arange(top, height, dtype=np.float32) + 0.5
    depth = camera.focal * camera.height / np.maximum(SCALE * rows - camera.centre[1], 0.5)
    clear = np.exp(-light.density * depth).astype(np.float32)[:, None, None]
    sun = (light.direct * max(0.0, float(light.sun[1]))).astype(np.float32)
    power = light.ambient.astype(np.float32) + sun * (1 - shade[top:, :, None])
    power = power + _lamplight(view, world, (depth, width))
    power = power * ((1 - contact[top:]) * grain[top:])[..., None]
    scale = np.empty((height - top, width, 4), np.float32)
    scale[..., :3] = np.clip(power * clear * _UNIT, 0, 255)
    scale[..., 3] = _UNIT
    haze = np.zeros((height - top, 1, 4), np.float32)
    haze[..., :3] = light.haze.astype(np.float32) * (1 - clear)
    ground = canvas.paint[top * SCALE :]
    size = (ground.shape[1], ground.shape[0])
    scale_map = cv2.resize(scale.astype(np.uint8), size, interpolation=cv2.INTER_LINEAR)
    haze_map = cv2.resize(np.repeat(haze, 2, axis=1).astype(np.uint8), size, interpolation=cv2.INTER_LINEAR)
    below = int(camera.centre[1]) - top * SCALE
    lit = cv2.add(cv2.multiply(ground[below:], scale_map[below:], scale=1 / _UNIT), haze_map[below:])
    # Skyline and sky never reach below the horizon, so all of this is ground.
    ground[below:] = lit


def _lamplight(view: View, world: World, grid: tuple[Array, int]) -> Array:
    """What headlights and street lamps add: (h, w, 3) float32, or a zero."""
    if not view.light.night:
        return np.zeros((1, 1, 3), np.float32)
    depth, width = grid
    camera = view.camera
    column = (np.arange(width, dtype=np.float32) + 0.5) * SCALE
    x = (column[None] - camera.centre[0]) * (depth[:, None] / camera.focal)
    z = depth[:, None].astype(np.float32)
    aim = np.exp(-((x / (1.6 + 0.2 * z)) ** 2)) * np.exp(-z / 24) * np.minimum(z / 5, 1)
    total = 1.5 * view.light.beam * aim[..., None] * np.array((1.0, 0.95, 0.82), np.float32)
    for thing in world.things:
        if isinstance(thing, Post) and thing.kind == "lamp" and thing.z < 70:
            pool = np.exp(-(((x - thing.x - thing.arm) ** 2 + (z - thing.z) ** 2) / 42))
            total = total + 0.5 * pool[..., None] * np.array((1.0, 0.82, 0.52), np.float32)
    lamps: Array = total.astype(np.float32)
    return lamps


def _shadows(view: View, world: World, size: tuple[int, int]) -> tuple[Array, Array]:
    """Cast shadows and the darkness under things: two (h, w) float32 maps, 0-1."""
    cast: Array = np.zeros(size, np.uint8)
    contact: Array = np.zeros(size, np.uint8)
    sunny = float(view.light.direct.max()) > 0.3
    lean = -view.light.sun[[0, 2]] / max(0.2, float(view.light.sun[1]))
    for thing in world.things:
        if thing.z > _SHADOWED:
            continue
        if sunny:
            for outline in _cast(thing, world.road, lean):
                _hull(cast, view.camera, outline, 255)
        under = _under(thing)
        if under is not None:
            _hull(contact, view.camera, under, 190)
    cast = cv2.GaussianBlur(cast, (5, 5), 0)
    contact = cv2.GaussianBlur(contact, (7, 5), 0)
    return cast.astype(np.float32) * (0.92 / 255), contact.astype(np.float32) * (0.8 / 255)


def _hull(mask: Array, camera: Camera, ground: Array, value: int) -> None:
    """Fill the convex hull of points on the ground (K, 2) as x, z; what lies behind the camera is left out."""
    ahead = ground[ground[:, 1] > 0.9]
    if len(ahead) > 2:
        points = np.stack((ahead[:, 0], np.zeros(len(ahead)), ahead[:, 1]), axis=-1)
        cv2.fillConvexPoly(mask, cv2.convexHull(pixels(camera.project(points) / SCALE)), value)


def _cast(thing: Thing, road: Road, lean: Array) -> list[Array]:
    """Ground outlines (K, 2) whose hulls are the thing's shadow; `lean` is its way along x and z a metre of height."""
    match thing:
        case Vehicle():
            box = corners(thing)
            return [np.concatenate((box[:4, [0, 2]], box[4:, [0, 2]] * 0.94 + 0.06 * np.array((thing.x, thing.z))
                                    + lean * thing.size[1]))]  # fmt: skip
        case Building():
            near, far = road.bend(thing.z), road.bend(thing.z_far)
            base = np.array([(thing.inner + near, thing.z), (thing.outer + near, thing.z),
                             (thing.outer + far, thing.z_far), (thing.inner + far, thing.z_far)])  # fmt: skip
            return [np.concatenate((base, base + lean * thing.height))]
        case Tree():
            middle = np.array((thing.x, thing.z))
            crown = circle(10) * (0.85 * thing.crown) + middle + lean * (thing.trunk + 0.75 * thing.crown)
            stem = circle(4) * 0.14 + middle
            return [crown, np.concatenate((stem, stem + lean * thing.trunk))]
        case Person() | Post():
            stem = circle(6) * (0.24 if isinstance(thing, Person) else 0.07) + (thing.x, thing.z)
            return [np.concatenate((stem, stem + lean * thing.height))]


def _under(thing: Thing) -> Array | None:
    """The patch right under a thing that no light reaches, or None."""
    match thing:
        case Vehicle():
            base = corners(thing)[:4, [0, 2]]
            grown: Array = (base - (thing.x, thing.z)) * 1.08 + (thing.x, thing.z)
            return grown
        case Person():
            return circle(8) * (0.34, 0.3) + (thing.x, thing.z)
        case Tree():
            return circle(8) * max(0.3, 0.55 * thing.crown - 0.5) + (thing.x, thing.z)
        case Building() | Post():
            return None
