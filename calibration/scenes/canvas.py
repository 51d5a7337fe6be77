"""The picture while it is painted, far to near: colour and owner of every pixel in one array.

Drawing both with one call keeps labels and picture equal by construction, and halves the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from avcompress.spec import Array

SCALE = 2
"""Canvas pixels a picture pixel, in both directions: averaging them down is the antialiasing."""

STUFF = ("sky", "building", "pole", "road", "marking", "pavement", "vegetation", "sign", "vehicle", "person")
THINGS = ("car", "truck", "pedestrian", "cyclist", "sign", "light")
SKY, BUILDING, POLE, ROAD, MARKING, PAVEMENT, VEGETATION, SIGN, VEHICLE, PERSON = range(10)
CAR, TRUCK, PEDESTRIAN, CYCLIST, TRAFFIC_SIGN, TRAFFIC_LIGHT = range(6)

OWN_CAR = 10
FIRST_OWNER = 16
MAX_OWNERS = 256 - FIRST_OWNER
_FAR = 16000.0

Colour = tuple[float, float, float]


@dataclass
class Owner:
    """One labelled object: its two classes, where to look for it, and how much of it was painted.

    Attributes:
        stuff: index into STUFF.
        thing: index into THINGS.
        distance: metres ahead of the camera.
        window: x0, y0, x1, y1 in canvas pixels that contain every pixel of it.
        painted: canvas pixels inside the frame, before anything nearer was painted over them.
    """

    stuff: int
    thing: int
    distance: float
    window: tuple[int, int, int, int] = (0, 0, 0, 0)
    painted: int = 0


@dataclass
class Canvas:
    """Paint of shape (H * SCALE, W * SCALE, 4), uint8: red, green, blue, owner.

    An owner below OWN_CAR is an index into STUFF; from FIRST_OWNER on it is `owners[value - FIRST_OWNER]`.
    """

    paint: Array
    owners: list[Owner] = field(default_factory=list)

    @classmethod
    def blank(cls, height: int, width: int) -> Canvas:
        """An empty canvas for a picture of this size."""
        return cls(np.zeros((height * SCALE, width * SCALE, 4), np.uint8))

    @property
    def full(self) -> bool:
        """Whether another owner would not fit into a byte."""
        return len(self.owners) >= MAX_OWNERS

    def own(self, stuff: int, thing: int, distance: float) -> int:
        """Announce an object, so many metres ahead; returns the owner value to paint it with."""
        self.owners.append(Owner(stuff, thing, distance))
        return FIRST_OWNER + len(self.owners) - 1

    def fill(self, polygons: Sequence[Array] | Array, colour: Sequence[float], owner: int) -> None:
        """Fill polygons (K, 2) that do not overlap with one colour; an array (N, K, 2) is fastest."""
        shapes = list(pixels(polygons)) if isinstance(polygons, np.ndarray) else [pixels(p) for p in polygons]
        cv2.fillPoly(self.paint, shapes, (*colour, owner))

    def disc(self, centre: Array, radius: float, colour: Sequence[float], owner: int) -> None:
        """Fill a circle, in canvas pixels."""
        u, v = pixels(centre).tolist()
        cv2.circle(self.paint, (u, v), max(1, round(radius)), (*colour, owner), cv2.FILLED)

    def seal(self, owner: int, points: Array) -> None:
        """Count an object's pixels once it is painted; `points` (..., 2) enclose it."""
        height, width = self.paint.shape[:2]
        flat = points.reshape(-1, 2)
        x0, y0 = np.clip(np.floor(flat.min(axis=0)) - 3, 0, (width, height)).astype(int).tolist()
        x1, y1 = np.clip(np.ceil(flat.max(axis=0)) + 4, 0, (width, height)).astype(int).tolist()
        record = self.owners[owner - FIRST_OWNER]
        record.window = (x0, y0, x1, y1)
        record.painted = int(np.count_nonzero(self.paint[y0:y1, x0:x1, 3] == owner))


def pixels(points: Array) -> Array:
    """Round to int32, and keep far-off points within what OpenCV can draw."""
    # Not np.clip: on the few points of a polygon its call costs more than its work.
    return np.rint(np.minimum(np.maximum(points, -_FAR), _FAR)).astype(np.int32)


def capsules(starts: Array, ends: Array, radii: Array) -> Array:
    """Outlines of limbs with round ends: (L, 2), (L, 2), (L, 2) radii at both ends -> (L, 10, 2)."""
    along = ends - starts
    angle = np.arctan2(along[:, 1], along[:, 0])[:, None]
    fan = np.linspace(0.5 * np.pi, 1.5 * np.pi, 5)[None]
    tail = np.stack((np.cos(angle + fan), np.sin(angle + fan)), axis=-1) * radii[:, :1, None] + starts[:, None]
    fan = fan + np.pi
    tip = np.stack((np.cos(angle + fan), np.sin(angle + fan)), axis=-1) * radii[:, 1:, None] + ends[:, None]
    return np.concatenate((tail, tip), axis=1)


def circle(corners: int = 12, phase: float = 0.0) -> Array:
    """A regular polygon of radius one: (corners, 2)."""
    angle = np.linspace(0, 2 * np.pi, corners, endpoint=False) + phase
    return np.stack((np.cos(angle), np.sin(angle)), axis=-1)
