"""COCO JSON detection labels. Source: cocodataset.org/#format-data."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, Field, ValidationError

from avcompress.recipe import CocoSource
from avcompress.spec import Array, DataError
from calibration.classes import ClassTable
from calibration.decode import read_bytes
from calibration.files import FileSource, Record, file_source, select
from calibration.sample import LabelledBox, Sample, stack


class _Image(BaseModel):
    id: int
    file_name: str = Field(min_length=1)
    width: int | None = None
    height: int | None = None


class _Category(BaseModel):
    id: int
    name: str


class _Annotation(BaseModel):
    id: int
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    area: float | None = None
    iscrowd: bool = False


T = TypeVar("T", _Image, _Category)


class _Labels(BaseModel):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]


def open_coco(settings: CocoSource, root: Path, classes: tuple[str, ...] | None) -> FileSource:
    """Open a COCO JSON and its folder of images, ordered by image id; boxes are those of the file, not clipped.

    Without `classes` the table is that of the categories, by id, aliases applied. Raises DataError.
    """
    path, folder = root / settings.labels, root / settings.images
    labels = _load(path)
    categories = _by_id(labels.categories, f"{path}: categories")
    table = ClassTable.build(classes, [categories[key].name for key in sorted(categories)], settings.aliases)
    images = _by_id(labels.images, f"{path}: images")
    objects: defaultdict[int, list[LabelledBox]] = defaultdict(list)
    for annotation in labels.annotations:
        where = f"{path}: annotation {annotation.id}"
        if annotation.image_id not in images:
            raise DataError(f"{where}: expected a listed image, got image_id {annotation.image_id}; add or remove it")
        objects[annotation.image_id].append(_labelled_box(annotation, categories, table, where))
    chosen = select([images[key] for key in sorted(images)], settings)
    records = [
        Record(image.file_name, folder / image.file_name, boxes=stack(objects[image.id]), size=_size(image))
        for image in chosen
    ]
    return file_source(folder, records, table.names, settings, _read)


def _load(path: Path) -> _Labels:
    try:
        return _Labels.model_validate_json(read_bytes(path))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise DataError(
            f"{path}{': ' if place else ''}{place}: expected COCO labels (images, annotations, categories), "
            f"got {first['msg']!r}; mend the file"
        ) from error


def _by_id(items: list[T], where: str) -> dict[int, T]:
    by_id = {item.id: item for item in items}
    if len(by_id) != len(items):
        raise DataError(f"{where}: expected distinct ids, got {len(items) - len(by_id)} repeated; mend the file")
    return by_id


def _size(image: _Image) -> tuple[int, int] | None:
    return (image.height, image.width) if image.height and image.width else None


def _labelled_box(
    annotation: _Annotation, categories: dict[int, _Category], table: ClassTable, where: str
) -> LabelledBox:
    left, top, width, height = annotation.bbox
    area = width * height if annotation.area is None else annotation.area
    if annotation.category_id not in categories:
        raise DataError(f"{where}: expected a listed category, got category_id {annotation.category_id}; add it")
    index = table.index(categories[annotation.category_id].name, where)
    box = LabelledBox((left, top, left + width, top + height), index, area, annotation.iscrowd)
    # COCO itself holds boxes of zero width or height; official evaluation counts them, so they stay.
    if not box.plausible:
        raise DataError(f"{where}: expected a box of size >= 0, got bbox {annotation.bbox}, area {area}; mend it")
    return box


def _read(record: Record, image: Array) -> Sample:
    # Labels made for another resolution would be wrong without any other sign.
    if record.size not in (None, image.shape[:2]):
        raise DataError(
            f"{record.image}: expected {record.size} (height, width) as the labels say, got {image.shape[:2]}; "
            "use the images that the labels were made for"
        )
    return Sample(record.name, image, boxes=record.boxes)
