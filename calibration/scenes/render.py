"""One scene from its seed: the order in which everything is painted."""

from __future__ import annotations

import cv2
import numpy as np

from avcompress.spec import Array
from calibration.scenes.canvas import OWN_CAR, SCALE, Canvas, pixels
from calibration.scenes.ground import draw_ground, light_ground
from calibration.scenes.houses import draw_building
from calibration.scenes.lens import Textures, cut, develop, road_grain
from calibration.scenes.mesh import corners, draw_vehicle
from calibration.scenes.people import draw_person
from calibration.scenes.sky import draw_sky, draw_skyline, make_camera, make_light
from calibration.scenes.street import draw_post, draw_tree
from calibration.scenes.view import View
from calibration.scenes.world import Building, Person, Post, Road, Thing, Tree, Vehicle, World, make_world


def render(seed: tuple[int, int], size: tuple[int, int], textures: Textures) -> tuple[Array, Canvas, World]:
    """Draw scene seed[1] of series seed[0].

    Returns:
        The picture (H, W, 3) uint8 RGB, the canvas that labels are read from, and what stands where.
    """
    rng = np.random.default_rng(seed)
    height, width = size
    world = make_world(rng)
    view = View(make_camera(rng, height, width), make_light(rng, world))
    canvas = Canvas.blank(height, width)
    draw_sky(canvas, view, world, cut(textures.clouds, rng, (height, width)))
    draw_skyline(canvas, view, world, rng)
    draw_ground(canvas, view, world, rng)
    light_ground(canvas, view, world, road_grain(view, textures, rng, size))
    for thing in sorted(world.things, key=_depth, reverse=True):
        if not canvas.full:
            _draw(canvas, view, world.road, thing)
    if world.hood:
        _hood(canvas, view, rng)
    return develop(canvas, world, textures, rng), canvas, world


def _depth(thing: Thing) -> float:
    """Metres; what is nearer is painted later, over what is farther."""
    match thing:
        case Vehicle():
            return float(corners(thing)[:, 2].min())
        case Building():
            # A street's furniture stands between us and the whole of a building.
            return thing.z_far
        case Person() | Tree() | Post():
            return thing.z


def _draw(canvas: Canvas, view: View, road: Road, thing: Thing) -> None:
    match thing:
        case Vehicle():
            draw_vehicle(canvas, view, thing)
        case Building():
            draw_building(canvas, view, road, thing)
        case Person():
            draw_person(canvas, view, thing)
        case Tree():
            draw_tree(canvas, view, thing)
        case Post():
            draw_post(canvas, view, thing)


def _hood(canvas: Canvas, view: View, rng: np.random.Generator) -> None:
    """Our own bonnet at the lower edge: unlabelled."""
    height, width = canvas.paint.shape[:2]
    rise = rng.uniform(0.05, 0.1) * height
    columns = np.linspace(0, width, 24)
    curve = height - rise * (1 - 0.55 * (2 * columns / width - 1) ** 2)
    base = rng.uniform(18, 60) * float(view.light.ambient.mean() + 0.3 * view.light.direct.mean())
    for drop, shade in ((0.0, 1.9), (2.0 * SCALE, 1.0)):
        outline = np.concatenate((np.stack((columns, curve + drop), -1), [(width, height), (0, height)]))
        cv2.fillPoly(canvas.paint, [pixels(outline)], (base * shade, base * shade, base * shade * 1.05, OWN_CAR))
