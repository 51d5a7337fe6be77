"""KITTI object labels: one text file an image, one object a line.

Source: KITTI object development kit, readme.txt (type, truncated, occluded, alpha, bbox, dimensions, location,
rotation_y, and in results a score).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from avcompress.recipe import KittiSource
from avcompress.spec import Array, DataError
from calibration.classes import ClassTable
from calibration.decode import read_bytes
from calibration.files import FileSource, Record, file_source, list_images, require, select
from calibration.sample import Boxes, Kind, LabelledBox, Sample, stack
from calibration.tags import read_tags

TYPES = ("Car", "Van", "Truck", "Pedestrian", "Person_sitting", "Cyclist", "Tram", "Misc")

ATTRIBUTES: Mapping[str, Kind] = {
    "type": str,
    "occlusion_level": float,
    "truncated": float,
    "occlusion": str,
    "truncation": str,
    "distance_m": float,
}
"""What is kept of an object beside its box: the label as written, its three figures, and two of them as words."""

OCCLUSIONS = ("none", "partly", "largely", "unknown")
"""The kit's `occluded` 0 to 3."""

TRUNCATIONS = ((0.15, "none"), (0.3, "partly"), (0.5, "largely"), (1.0, "mostly"))
"""The greatest `truncated` of each word; the first three are the limits of the kit's easy, moderate and hard."""

NO_PLACE = -1000.0
"""The kit's location of what has none."""


def open_kitti(settings: KittiSource, root: Path, classes: tuple[str, ...] | None) -> FileSource:
    """Open a folder of images and one of KITTI txt labels, ordered by name; boxes are clipped to the image.

    Without `classes` the table is that of the development kit, aliases applied. Raises DataError.
    """
    # A recipe that adds an alias of its own must not turn DontCare regions into errors.
    table = ClassTable.build(classes, TYPES, {"DontCare": None, **settings.aliases})
    folder = root / settings.images
    everything = list_images(folder)
    tags = read_tags(settings, root, [path.name for path in everything])
    images = select(everything, settings)
    labels = [root / settings.labels / f"{path.stem}.txt" for path in images]
    require(labels, "the KITTI label of an image", "an image without objects has an empty txt")
    records = [
        Record(image.name, image, boxes=read_kitti(label, table), tags=tags.get(image.name, {}))
        for image, label in zip(images, labels, strict=True)
    ]
    return file_source(folder, records, table.names, settings, _read)


def _read(record: Record, image: Array) -> Sample:
    return Sample(record.name, image, boxes=_clip(record.boxes, *image.shape[:2]) if record.boxes is not None else None)


def read_kitti(path: Path, table: ClassTable) -> Boxes:
    """The objects of one label file, as written; raises DataError, naming file and line."""
    try:
        lines = read_bytes(path).decode().splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: expected KITTI text, got bytes that are not UTF-8; check the file") from error
    return stack([_parse(line, f"{path}:{n}", table) for n, line in enumerate(lines, 1) if line.strip()], ATTRIBUTES)


def _parse(line: str, where: str, table: ClassTable) -> LabelledBox:
    name, *rest = line.split()
    if len(rest) not in (14, 15):
        raise DataError(f"{where}: expected 15 fields, or 16 with a score, got {len(rest) + 1}; mend the line")
    try:
        numbers = [float(field) for field in rest]
    except ValueError as error:
        raise DataError(f"{where}: expected numbers after the type, got {error}; mend the line") from error
    left, top, right, bottom = numbers[3:7]
    area = (right - left) * (bottom - top)
    attributes = {"type": name, **_attributes(numbers)}
    box = LabelledBox((left, top, right, bottom), table.index(name, where), area, attributes=attributes)
    if not box.plausible:
        raise DataError(f"{where}: expected pixels, left <= right, top <= bottom, got {box.xyxy}; mend the line")
    return box


def _attributes(numbers: Sequence[float]) -> dict[str, float | str]:
    """What the fields after the type tell; placeholders are left out: -1, -1000, and a location of all zeros."""
    truncated, occluded, location = numbers[0], numbers[1], numbers[10:13]
    found: dict[str, float | str] = {}
    if 0 <= truncated <= 1:
        found |= {"truncated": truncated, "truncation": next(word for most, word in TRUNCATIONS if truncated <= most)}
    if occluded in range(len(OCCLUSIONS)):
        found |= {"occlusion_level": occluded, "occlusion": OCCLUSIONS[int(occluded)]}
    # Other tools write zeros for the 3D fields that they do not know: nothing stands inside the camera.
    if all(map(math.isfinite, location)) and NO_PLACE not in location and any(location):
        found["distance_m"] = location[2]
    return found


def _clip(boxes: Boxes, height: int, width: int) -> Boxes:
    limits = np.array([width, height, width, height], np.float32)
    xyxy = np.clip(boxes.xyxy, 0, limits)
    width_height = (xyxy[:, 2:] - xyxy[:, :2]).astype(np.float64)
    # What lies wholly outside the image cannot be found in it.
    return replace(boxes, xyxy=xyxy, area=width_height.prod(axis=1)).keep((width_height > 0).all(axis=1))
