"""Pictures that a run has made of its network's statistics, and has kept in its state."""

from __future__ import annotations

from pathlib import Path

from avcompress.spec import Array
from calibration.files import FileSource, Record
from calibration.sample import Sample


def picture_name(index: int) -> str:
    """What a generated picture is called."""
    return f"generated-{index:05d}"


def open_generated(folder: Path, count: int, classes: tuple[str, ...]) -> FileSource:
    """The pictures of a folder; it may be empty until the first one is asked for."""
    names = map(picture_name, range(count))
    return FileSource(classes, tuple(Record(name, folder / f"{name}.png") for name in names), _read)


def _read(record: Record, image: Array) -> Sample:
    return Sample(record.name, image)
