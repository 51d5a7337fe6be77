"""What stands beside the road: trees, lamps, traffic signs and lights."""

from __future__ import annotations

import cv2
import numpy as np

from avcompress.spec import Array
from calibration.scenes.canvas import (
    POLE,
    SIGN,
    TRAFFIC_LIGHT,
    TRAFFIC_SIGN,
    VEGETATION,
    Canvas,
    Colour,
    circle,
    pixels,
)
from calibration.scenes.view import View
from calibration.scenes.world import Post, Tree

RED, WHITE, BLUE, YELLOW, GREEN, BLACK = (
    *((196, 24, 30), (238, 238, 234), (24, 84, 170), (246, 196, 24), (20, 112, 66), (26, 26, 28)),
)
_SQUARE = circle(4, np.pi / 4)
_DIAMOND = circle(4)
_ROUND = circle(14)
_OCTAGON = circle(8, np.pi / 8)
_UP, _DOWN = circle(3, np.pi / 2), circle(3, -np.pi / 2)
_BAR = np.array([(-0.6, -0.16), (0.6, -0.16), (0.6, 0.16), (-0.6, 0.16)])
_POST = np.array([(-0.13, -0.55), (0.13, -0.55), (0.13, 0.55), (-0.13, 0.55)])
_ARROW = np.array([(-0.16, -0.7), (0.16, -0.7), (0.16, 0.1), (0.5, 0.1), (0, 0.7), (-0.5, 0.1), (-0.16, 0.1)])

Layer = tuple[Array, Colour]
SIGNS: tuple[tuple[float, tuple[Layer, ...]], ...] = (
    (0.42, ((_ROUND, RED), (_ROUND * 0.76, WHITE), (_POST * 0.6 + (-0.2, 0), BLACK), (_POST * 0.6 + (0.22, 0), BLACK))),
    (0.42, ((_ROUND, RED), (_BAR * 1.1, WHITE))),
    (0.42, ((_ROUND, BLUE), (_ARROW, WHITE))),
    (0.5, ((_UP, RED), (_UP * 0.7, WHITE), (_POST * 0.55 + (0, -0.05), BLACK))),
    (0.5, ((_DOWN, RED), (_DOWN * 0.66, WHITE))),
    (0.46, ((_OCTAGON, WHITE), (_OCTAGON * 0.93, RED), (_BAR * (1.1, 0.9), WHITE))),
    (0.52, ((_DIAMOND, WHITE), (_DIAMOND * 0.78, YELLOW))),
    (0.52, ((_SQUARE, BLUE), (_UP * 0.6, WHITE), (_POST * 0.4 + (0, -0.05), BLUE))),
    (0.8, ((_SQUARE * (1.4, 0.8), WHITE), (_SQUARE * (1.34, 0.74), GREEN), (_BAR * (1, 0.7) + (0, 0.2), WHITE),
           (_BAR * (0.7, 0.6) + (-0.2, -0.22), WHITE))),
)  # fmt: skip


def draw_tree(canvas: Canvas, view: View, tree: Tree) -> None:
    """Paint a trunk and a crown of overlapping clumps, brighter towards the sun."""
    rng = np.random.default_rng(tree.seed)
    camera, scale = view.camera, view.camera.scale(tree.z)
    foot = camera.at(tree.x, 0, tree.z)
    bark = view.light.flat(np.array([(86, 68, 52)], np.float64), (tree.x, tree.z))[0]
    half = 0.09 * tree.crown
    trunk = np.array([(-half, 0), (half, 0), (half * 0.7, tree.trunk + 0.5), (-half * 0.7, tree.trunk + 0.5)])
    canvas.fill([trunk * (scale, -scale) + foot], bark.tolist(), VEGETATION)
    middle = np.array((0, tree.trunk + 0.75 * tree.crown))
    size_px = scale * tree.crown
    count = 22 if size_px > 40 else 13 if size_px > 14 else 6
    turn, far = rng.uniform(0, 2 * np.pi, count), np.sqrt(rng.uniform(0.05, 1, count))
    clumps = np.stack((np.cos(turn), np.sin(turn)), axis=-1) * far[:, None] * (0.72, 0.68)
    size = rng.uniform(0.26, 0.46, count) * (1.25 - 0.45 * far)
    side = np.sign(view.light.sun[0]) * np.hypot(view.light.sun[0], 0.2)
    bright = 0.82 + 0.3 * clumps[:, 1] + 0.22 * side * clumps[:, 0] + rng.uniform(-0.07, 0.07, count)
    order = np.argsort(bright)
    albedo = np.array(tree.colour) * bright[:, None]
    colours = view.light.flat(albedo, (tree.x, tree.z))
    spots = pixels((clumps * tree.crown + middle) * (scale, -scale) + foot).tolist()
    canvas.disc(middle * (scale, -scale) + foot, 0.62 * tree.crown * scale, colours[order[0]].tolist(), VEGETATION)
    for i in order.tolist():
        radius = max(1, round(float(size[i]) * tree.crown * scale))
        cv2.circle(canvas.paint, spots[i], radius, (*colours[i].tolist(), VEGETATION), cv2.FILLED)


def draw_post(canvas: Canvas, view: View, post: Post) -> None:
    """Paint a pole, its arm, and label what it carries."""
    scale, foot = view.camera.scale(post.z), view.camera.at(post.x, 0, post.z)
    grey = view.light.flat(np.array([(122, 126, 130)], np.float64), (post.x, post.z))[0].tolist()
    half = {"sign": 0.06, "light": 0.09, "lamp": 0.11}[post.kind]
    top = post.height + (0.25 if post.kind == "sign" else 0.0)
    pole = np.array([(-half, 0), (half, 0), (half * 0.8, top), (-half * 0.8, top)])
    parts = [pole * (scale, -scale) + foot]
    if post.arm:
        arm = np.array([(0, top - 0.12), (post.arm, top + 0.02), (post.arm, top + 0.12), (0, top)])
        parts.append(arm * (scale, -scale) + foot)
    for part in parts:
        canvas.fill([part], grey, POLE)
    head = foot + np.array((post.arm, top)) * (scale, -scale)
    match post.kind:
        case "sign":
            _plate(canvas, view, post, foot - (0, post.height * scale))
        case "light":
            _lights(canvas, view, post, head)
        case "lamp":
            _lamp(canvas, view, (head, scale), grey)


def _plate(canvas: Canvas, view: View, post: Post, centre: Array) -> None:
    radius, layers = SIGNS[post.design]
    size = radius * view.camera.scale(post.z)
    owner = canvas.own(SIGN, TRAFFIC_SIGN, post.z)
    albedo = np.array([colour for _, colour in layers], np.float64)
    # Reflective foil: brighter than paint, most of all in the headlights.
    place = (post.x * 0.4, post.z)
    colours = np.clip(view.light.flat(albedo, place) * 1.12, 0, 255).tolist()
    for (shape, _), colour in zip(layers, colours, strict=True):
        canvas.fill([shape * (size, -size) + centre], colour, owner)
    canvas.seal(owner, np.stack((centre - 1.5 * size, centre + 1.5 * size)))


def _lights(canvas: Canvas, view: View, post: Post, head: Array) -> None:
    scale = view.camera.scale(post.z)
    owner = canvas.own(SIGN, TRAFFIC_LIGHT, post.z)
    dark = view.light.flat(np.array([(44, 46, 48), (24, 25, 27), (52, 40, 38)], np.float64), (post.x, post.z)).tolist()
    board = np.array([(-0.34, -0.66), (0.34, -0.66), (0.34, 0.66), (-0.34, 0.66)])
    case = board * (0.68, 0.88)
    canvas.fill([board * scale + head], dark[0], owner)
    canvas.fill([case * scale + head], dark[1], owner)
    lit = ((255, 44, 34), (255, 190, 40), (60, 240, 130))
    for row in range(3):
        spot = head + np.array((0, (row - 1) * 0.36 * scale))
        canvas.disc(spot, 0.145 * scale, lit[row] if row == post.design else dark[2], owner)
    canvas.seal(owner, np.stack((head - 0.8 * scale, head + 0.8 * scale)))


def _lamp(canvas: Canvas, view: View, place: tuple[Array, float], grey: list[float]) -> None:
    head, scale = place
    colour = [255.0, 236.0, 180.0] if view.light.night else grey
    body = np.array([(-0.38, -0.02), (0.38, -0.02), (0.3, 0.16), (-0.3, 0.16)])
    canvas.fill([body * scale + head], colour, POLE)
