"""A plain folder of images: enough for calibration."""

from __future__ import annotations

from pathlib import Path

from avcompress.recipe import ImageSource
from avcompress.spec import Array
from calibration.files import FileSource, Record, file_source, list_images, select
from calibration.sample import Sample
from calibration.tags import read_tags


def open_images(settings: ImageSource, root: Path, classes: tuple[str, ...] | None) -> FileSource:
    """Open a folder of images, ordered by name; samples have no labels. Raises DataError."""
    folder = root / settings.images
    named = {path.relative_to(folder).as_posix(): path for path in list_images(folder, settings.recursive)}
    tags = read_tags(settings, root, named)
    records = [Record(name, named[name], tags=tags.get(name, {})) for name in select(tuple(named), settings)]
    return file_source(folder, records, classes or (), settings, _read)


def _read(record: Record, image: Array) -> Sample:
    return Sample(record.name, image)
