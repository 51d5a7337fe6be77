"""Images and masks of the same stem: one class a pixel, as indices or as colours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from avcompress.recipe import MaskSource
from avcompress.spec import Array, DataError
from calibration.classes import ClassTable, nearest
from calibration.decode import MASK_ADVICE, decode_image, decode_index_mask
from calibration.files import FileSource, Record, file_source, list_images, require, select
from calibration.sample import VOID, Sample
from calibration.tags import read_tags

ToIndices = Callable[[Path], Array]


def open_masks(settings: MaskSource, root: Path, classes: tuple[str, ...] | None) -> FileSource:
    """Open a folder of images and one of PNG masks, ordered by name.

    Without `classes` the table is that of `colours`, in their order. Raises DataError.
    """
    names = _class_names(settings, classes)
    images, labels = root / settings.images, root / settings.labels
    if images.resolve() == labels.resolve():
        raise DataError(f"{labels}: expected masks in a folder of their own, got that of the images; move them")
    named = {path.relative_to(images).as_posix(): path for path in _images(images, settings)}
    tags = read_tags(settings, root, named)
    records = [
        Record(name, named[name], mask=labels / _mask_name(Path(name), settings), tags=tags.get(name, {}))
        for name in select(tuple(named), settings)
    ]
    advice = "a mask is a PNG of its image's stem; `image_suffix` and `label_suffix` say where the two differ"
    require([record.mask for record in records if record.mask], "the mask of an image", advice)
    to_indices = _colour_reader(settings.colours, names) if settings.colours else _index_reader(settings.void, names)

    def read(record: Record, image: Array) -> Sample:
        return Sample(record.name, image, mask=_read_mask(record, image, to_indices))

    return file_source(images, records, names, settings, read, f"{sorted(settings.void)} {settings.colours}")


def _images(folder: Path, settings: MaskSource) -> list[Path]:
    images = list_images(folder, settings.recursive)
    found = [path for path in images if path.stem.endswith(settings.image_suffix)]
    if not found:
        raise DataError(
            f"{images[0]}: expected a stem that ends in {settings.image_suffix!r}, got {len(images)} images without; "
            "mend image_suffix"
        )
    return found


def _mask_name(image: Path, settings: MaskSource) -> Path:
    """The mask of an image, both relative to their folders."""
    return image.with_name(f"{image.stem.removesuffix(settings.image_suffix)}{settings.label_suffix}.png")


def _class_names(settings: MaskSource, classes: tuple[str, ...] | None) -> tuple[str, ...]:
    if classes is None and settings.colours is None:
        raise DataError(f"{settings.labels}: expected class names for the mask's indices, got none; give `classes`")
    names = ClassTable.build(classes, settings.colours or {}, {"void": None}).names
    if len(names) > VOID:
        raise DataError(f"classes: expected at most {VOID}, got {len(names)}; {VOID} stands for unlabelled pixels")
    return names


def _read_mask(record: Record, image: Array, to_indices: ToIndices) -> Array:
    path = record.mask or record.image
    mask = to_indices(path)
    if mask.shape != image.shape[:2]:
        raise DataError(
            f"{path}: expected the image's size {image.shape[1]}x{image.shape[0]}, "
            f"got {mask.shape[1]}x{mask.shape[0]}; labels belong to the image's own pixels"
        )
    return mask


def _index_reader(void: tuple[int, ...], names: tuple[str, ...]) -> ToIndices:
    table = np.arange(256, dtype=np.uint8)
    table[list(void)] = VOID
    illegal = (np.arange(256) >= len(names)) & ~np.isin(np.arange(256), void)

    def read(path: Path) -> Array:
        mask = decode_index_mask(path)
        counts = np.bincount(mask.ravel(), minlength=256)
        wrong = np.flatnonzero(illegal & (counts > 0))
        if wrong.size:
            raise DataError(
                f"{path}: expected class indices 0..{len(names) - 1}, got {wrong[0]} in {counts[wrong[0]]} pixels; "
                "add the class, or list the index under `void`"
            )
        return np.take(table, mask)

    return read


def _colour_reader(colours: dict[str, tuple[int, int, int]], names: tuple[str, ...]) -> ToIndices:
    codes, indices = _colour_table(colours, names)

    def read(path: Path) -> Array:
        pixels = decode_image(path, MASK_ADVICE).astype(np.int32)
        code = pixels[:, :, 0] << 16 | pixels[:, :, 1] << 8 | pixels[:, :, 2]
        place = np.minimum(np.searchsorted(codes, code), len(codes) - 1)
        unknown = code[codes[place] != code]
        if unknown.size:
            first = int(unknown[0])
            raise DataError(
                f"{path}: expected the listed colours, got {(first >> 16, first >> 8 & 255, first & 255)} "
                f"in {np.count_nonzero(unknown == first)} pixels; list it under `colours`, as `void` to ignore it"
            )
        return indices[place]

    return read


def _colour_table(colours: dict[str, tuple[int, int, int]], names: tuple[str, ...]) -> tuple[Array, Array]:
    by_code: dict[int, int] = {}
    for name, (red, green, blue) in colours.items():
        if name != "void" and name not in names:
            raise DataError(f"colours.{name}: expected a class or `void`, got {name!r}; {nearest(name, names)}")
        if not all(0 <= part <= 255 for part in (red, green, blue)):
            raise DataError(f"colours.{name}: expected red, green, blue in 0..255, got {(red, green, blue)}; mend it")
        code = red << 16 | green << 8 | blue
        if code in by_code:
            raise DataError(f"colours.{name}: expected a colour of its own, got {(red, green, blue)} twice; mend one")
        by_code[code] = VOID if name == "void" else names.index(name)
    codes = sorted(by_code)
    return np.array(codes, np.int32), np.array([by_code[code] for code in codes], np.uint8)
