"""COCO JSON detection labels. Source: cocodataset.org/#format-data."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from avcompress.recipe import CocoSource
from avcompress.spec import Array, DataError
from calibration.classes import ClassTable
from calibration.decode import read_bytes
from calibration.files import FileSource, Record, file_source, select
from calibration.sample import Kind, LabelledBox, Sample, stack
from calibration.tags import BOM, SCALARS, as_text, read_tags, text

FLAGS = ("occluded", "truncated")
"""Attributes that tools also write beside the box itself, often as 0 and 1."""


def _number(value: Any) -> Any:
    """Tools differ in whether they quote ids: '0042' and 42 are one."""
    return int(value) if isinstance(value, str) and value.isdecimal() else value


Id = Annotated[int | str, BeforeValidator(_number)]


class _Image(BaseModel):
    id: Id
    file_name: str = Field(min_length=1)
    width: int | None = None
    height: int | None = None
    tags: Any = None
    attributes: Any = None


class _Category(BaseModel):
    id: Id
    name: str


class _Annotation(BaseModel):
    id: Id | None = None
    image_id: Id
    category_id: Id
    bbox: tuple[float, float, float, float]
    area: float | None = None
    iscrowd: bool | None = None
    attributes: Any = None
    occluded: Any = None
    truncated: Any = None


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
    images, categories = _by_id(labels.images, f"{path}: images"), _by_id(labels.categories, f"{path}: categories")
    table = _table(categories, settings, classes)
    objects: defaultdict[int | str, list[LabelledBox]] = defaultdict(list)
    for index, annotation in enumerate(labels.annotations):
        where = f"{path}: annotation {annotation.id}" if annotation.id is not None else f"{path}: annotations.{index}"
        if annotation.image_id not in images:
            raise DataError(f"{where}: expected a listed image, got image_id {annotation.image_id!r}; add or remove it")
        objects[annotation.image_id].append(_labelled_box(annotation, categories, table, where))
    tags = read_tags(settings, root, [image.file_name for image in images.values()])
    chosen = select(_in_order(images), settings)
    kinds = _kinds(box.attributes for image in chosen for box in objects[image.id])
    records = [
        Record(
            image.file_name,
            folder / image.file_name,
            boxes=stack([_of_kinds(box, kinds) for box in objects[image.id]], kinds),
            size=_size(image),
            tags={**as_text(image.attributes), **as_text(image.tags), **tags.get(image.file_name, {})},
        )
        for image in chosen
    ]
    return file_source(folder, records, table.names, settings, _read)


@dataclass(frozen=True)
class CocoIds:
    """What a label file calls its images and categories, by id, and the class table that the categories map onto."""

    images: Mapping[int | str, str]
    categories: Mapping[int | str, str]
    table: ClassTable


def read_ids(settings: CocoSource, root: Path, classes: tuple[str, ...] | None) -> CocoIds:
    """The ids of a COCO JSON, those of images that are not chosen included; raises DataError."""
    path = root / settings.labels
    labels = _load(path)
    images, categories = _by_id(labels.images, f"{path}: images"), _by_id(labels.categories, f"{path}: categories")
    return CocoIds(
        {key: image.file_name for key, image in images.items()},
        {category.id: category.name for category in _in_order(categories)},
        _table(categories, settings, classes),
    )


def _table(categories: dict[int | str, _Category], settings: CocoSource, classes: tuple[str, ...] | None) -> ClassTable:
    return ClassTable.build(classes, [category.name for category in _in_order(categories)], settings.aliases)


def _load(path: Path) -> _Labels:
    try:
        return _Labels.model_validate_json(read_bytes(path).removeprefix(BOM))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise DataError(
            f"{path}{': ' if place else ''}{place}: expected COCO labels (images, annotations, categories), "
            f"got {first['msg']!r}; mend the file"
        ) from error


def _by_id(items: list[T], where: str) -> dict[int | str, T]:
    by_id = {item.id: item for item in items}
    if len(by_id) != len(items):
        raise DataError(f"{where}: expected distinct ids, got {len(items) - len(by_id)} repeated; mend the file")
    return by_id


def _in_order(by_id: dict[int | str, T]) -> list[T]:
    """By id; numbers come before text."""
    return [by_id[key] for key in sorted(by_id, key=lambda key: (isinstance(key, str), key))]


def _size(image: _Image) -> tuple[int, int] | None:
    return (image.height, image.width) if image.height and image.width else None


def _labelled_box(
    annotation: _Annotation, categories: dict[int | str, _Category], table: ClassTable, where: str
) -> LabelledBox:
    left, top, width, height = annotation.bbox
    area = width * height if annotation.area is None else annotation.area
    if annotation.category_id not in categories:
        raise DataError(f"{where}: expected a listed category, got category_id {annotation.category_id!r}; add it")
    index = table.index(categories[annotation.category_id].name, where)
    edges = (left, top, left + width, top + height)
    box = LabelledBox(edges, index, area, bool(annotation.iscrowd), _attributes(annotation))
    # COCO itself holds boxes of zero width or height; official evaluation counts them, so they stay.
    if not box.plausible:
        raise DataError(f"{where}: expected a box of size >= 0, got bbox {annotation.bbox}, area {area}; mend it")
    return box


def _attributes(annotation: _Annotation) -> dict[str, float | str]:
    """The scalars among an annotation's attributes, truths as text; others, such as lists, are left out."""
    beside = {name: getattr(annotation, name) for name in FLAGS}
    inner = annotation.attributes if isinstance(annotation.attributes, dict) else {}
    found = {str(name): value for name, value in {**beside, **inner}.items() if isinstance(value, SCALARS)}
    return {name: text(value) if isinstance(value, bool) else value for name, value in found.items()}


def _kinds(objects: Iterable[Mapping[str, float | str]]) -> dict[str, Kind]:
    """What each attribute's column holds: numbers where all its values are, but for flags, which are words."""
    values: defaultdict[str, set[float | str]] = defaultdict(set)
    for attributes in objects:
        for name, value in attributes.items():
            values[name].add(value)
    return {
        name: str if any(isinstance(v, str) for v in found) or (name in FLAGS and found <= {0, 1}) else float
        for name, found in sorted(values.items())
    }


def _of_kinds(box: LabelledBox, kinds: Mapping[str, Kind]) -> LabelledBox:
    """The box with its attributes as its source's columns hold them; a flag's 0 and 1 become false and true."""

    def fitted(name: str, value: float | str) -> float | str:
        if kinds[name] is float or isinstance(value, str):
            return value
        return text(bool(value) if name in FLAGS and value in (0, 1) else value)

    return replace(box, attributes={name: fitted(name, value) for name, value in box.attributes.items()})


def _read(record: Record, image: Array) -> Sample:
    # Labels made for another resolution would be wrong without any other sign.
    if record.size not in (None, image.shape[:2]):
        raise DataError(
            f"{record.image}: expected {record.size} (height, width) as the labels say, got {image.shape[:2]}; "
            "use the images that the labels were made for"
        )
    return Sample(record.name, image, boxes=record.boxes)
