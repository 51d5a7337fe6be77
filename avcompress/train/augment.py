"""What chance does to a training picture and its labels: mirrored, lit, resized, moved within the network's input."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple, Protocol

import cv2
import numpy as np

from avcompress.recipe_training import Augment
from avcompress.spec import Array
from calibration.sample import VOID, Boxes, Sample

SEEN = 0.25
"""The share of an object that has to stay in the picture for it to be learned; of less, nothing is claimed."""


class Chance(Protocol):
    """What numpy.random.Generator offers of it."""

    def random(self) -> float:
        """Between 0 and 1."""
        ...

    def uniform(self, low: float, high: float) -> float:
        """Between two numbers."""
        ...


class Change(NamedTuple):
    """What is done to one picture; `right` and `down` are shares of its sides."""

    mirrored: bool
    gain: float
    zoom: float = 1.0
    right: float = 0.0
    down: float = 0.0


def draw(chance: Chance, augment: Augment) -> Change:
    """Draw a change; what the settings leave alone draws nothing beyond mirror and gain."""
    mirrored = chance.random() < augment.mirror
    gain = chance.uniform(1 - augment.brightness, 1 + augment.brightness)
    zoom, right, down = 1.0, 0.0, 0.0
    if augment.scale != (1.0, 1.0):
        zoom = math.exp(chance.uniform(math.log(augment.scale[0]), math.log(augment.scale[1])))
    if augment.shift:
        right, down = (chance.uniform(-augment.shift, augment.shift) for _ in range(2))
    return Change(mirrored, gain, zoom, right, down)


def place(sample: Sample, change: Change, pad: int) -> Sample:
    """Mirror, resize and move the picture with its boxes and mask; `pad` is the grey of what comes into view."""
    if change.mirrored:
        sample = mirror(sample)
    if (change.zoom, change.right, change.down) == (1.0, 0.0, 0.0):
        return sample
    height, width = sample.image.shape[:2]
    # Coordinates are pixel edges: about the picture's middle, then moved.
    offset = np.array([width, height]) * (0.5 - change.zoom / 2 + np.array([change.right, change.down]))
    # OpenCV counts from the first pixel's centre.
    matrix = np.array([[change.zoom, 0, 0], [0, change.zoom, 0]])
    matrix[:, 2] = offset + 0.5 * change.zoom - 0.5
    image = _warp(sample.image, matrix, cv2.INTER_LINEAR, (pad,) * 3)
    mask = sample.mask if sample.mask is None else _warp(sample.mask, matrix, cv2.INTER_NEAREST, (VOID,))
    boxes = sample.boxes if sample.boxes is None else _moved(sample.boxes, change.zoom, offset, (width, height))
    return replace(sample, image=image, boxes=boxes, mask=mask)


def _warp(pixels: Array, matrix: Array, interpolation: int, border: tuple[int, ...]) -> Array:
    size = (pixels.shape[1], pixels.shape[0])
    warped: Array = cv2.warpAffine(pixels, matrix, size, flags=interpolation, borderValue=border)
    return warped


def _moved(boxes: Boxes, zoom: float, offset: Array, size: tuple[int, int]) -> Boxes:
    """Boxes cut to the picture; those of which little is left are ignored, those of which nothing is are dropped."""
    whole = boxes.xyxy * zoom + np.tile(offset, 2)
    cut = np.clip(whole, 0, np.tile(size, 2)).astype(np.float32)
    area = np.prod(np.maximum(whole[:, 2:] - whole[:, :2], 1e-6), axis=1)
    seen = np.prod(cut[:, 2:] - cut[:, :2], axis=1) / area
    moved = Boxes(cut, boxes.labels, boxes.ignore | (seen < SEEN), boxes.area * zoom**2, boxes.attributes)
    return moved.keep(seen > 0)


def mirror(sample: Sample) -> Sample:
    """Exchange left and right."""
    width = sample.image.shape[1]
    boxes, mask = sample.boxes, sample.mask
    if boxes is not None:
        xyxy = boxes.xyxy[:, (2, 1, 0, 3)] * np.array((-1, 1, -1, 1), np.float32)
        boxes = replace(boxes, xyxy=xyxy + np.array((width, 0, width, 0), np.float32))
    if mask is not None:
        mask = np.ascontiguousarray(mask[:, ::-1])
    return replace(sample, image=np.ascontiguousarray(sample.image[:, ::-1]), boxes=boxes, mask=mask)
