"""From the owner of every pixel to boxes and masks, and from the scene to its tags."""

from __future__ import annotations

import numpy as np

from avcompress.spec import Array
from calibration.sample import VOID, Boxes
from calibration.scenes.canvas import FIRST_OWNER, OWN_CAR, SCALE, STUFF, Canvas, Owner
from calibration.scenes.world import World

MIN_SIDE = 6.0
"""Picture pixels; an object whose longer side is shorter counts neither for nor against."""
MIN_WIDTH = 4.0
"""The same for the shorter side."""
MIN_VISIBLE = 0.3
"""An object of which a smaller share can be seen counts neither for nor against."""

OCCLUSIONS = ((0.9, "none"), (0.6, "partly"), (0.0, "largely"))
"""The least visible share of each word."""


def tags_of(world: World) -> dict[str, str]:
    """What slices may be named after: light (day, sunset, night), weather (clear, cloudy, rain) and setting."""
    light = world.weather if world.weather in ("sunset", "night") else "day"
    weather = "rain" if world.raining else "cloudy" if world.weather == "cloudy" else "clear"
    return {"light": light, "weather": weather, "setting": world.setting}


def mask_of(canvas: Canvas) -> Array:
    """The class of every pixel: (H, W) uint8, VOID on the own car."""
    table = np.full(256, VOID, np.uint8)
    table[: len(STUFF)] = np.arange(len(STUFF))
    table[OWN_CAR] = VOID
    for i, owner in enumerate(canvas.owners):
        table[FIRST_OWNER + i] = owner.stuff
    mask: Array = table[canvas.paint[::SCALE, ::SCALE, 3]]
    return mask


def boxes_of(canvas: Canvas) -> Boxes:
    """The visible extent of every object; `ignore` where it is tiny or mostly hidden.

    Attributes: occlusion (none, partly, largely) and distance_m.
    """
    xyxy, labels, ignore = [], [], []
    occlusion, distance = [], []
    for i, owner in enumerate(canvas.owners):
        found = _extent(canvas, FIRST_OWNER + i, owner)
        if found is not None:
            box, visible = found
            width, height = box[2] - box[0], box[3] - box[1]
            tiny = max(width, height) < MIN_SIDE or min(width, height) < MIN_WIDTH
            xyxy.append(box)
            labels.append(owner.thing)
            ignore.append(tiny or visible < MIN_VISIBLE)
            occlusion.append(next(word for least, word in OCCLUSIONS if visible >= least))
            distance.append(owner.distance)
    edges = np.array(xyxy, np.float32).reshape(-1, 4)
    area = (edges[:, 2:] - edges[:, :2]).astype(np.float64).prod(axis=1)
    attributes = {"occlusion": np.array(occlusion, np.str_), "distance_m": np.array(distance, np.float64)}
    return Boxes(edges, np.array(labels, np.int64), np.array(ignore, np.bool_), area, attributes)


def _extent(canvas: Canvas, value: int, owner: Owner) -> tuple[tuple[float, float, float, float], float] | None:
    """The box around what is visible of an object, in picture pixels, and which share of it that is."""
    x0, y0, x1, y1 = owner.window
    shown = canvas.paint[y0:y1, x0:x1, 3] == value
    columns, rows = np.flatnonzero(shown.any(axis=0)), np.flatnonzero(shown.any(axis=1))
    if not len(columns):
        return None
    left, right = (x0 + columns[0]) / SCALE, (x0 + columns[-1] + 1) / SCALE
    top, bottom = (y0 + rows[0]) / SCALE, (y0 + rows[-1] + 1) / SCALE
    return (left, top, right, bottom), np.count_nonzero(shown) / owner.painted
