"""The source behind every format that is a set of image files: which images, and how each is read."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from avcompress.recipe import SourceSettings
from avcompress.spec import Array, DataError
from calibration.decode import decode_image, read_bytes
from calibration.sample import Boxes, Sample

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm"})

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Record:
    """One image and its labels before anything is decoded; `size` is (height, width) where the labels state it.

    `tags` become those of the sample.
    """

    name: str
    image: Path
    boxes: Boxes | None = None
    mask: Path | None = None
    size: tuple[int, int] | None = None
    tags: Mapping[str, str] = field(default_factory=dict)


Read = Callable[[Record, Array], Sample]
"""Makes the sample from a record and its decoded image."""


@dataclass(eq=False)
class FileSource:
    """The samples of a set of records, decoded one by one; a Source.

    Attributes:
        label_rules: what decides the labels' meaning beside the files, for the fingerprint.
        skip_bad: leave out what cannot be decoded when iterating; `source[i]` raises all the same.
    """

    classes: tuple[str, ...]
    records: tuple[Record, ...]
    read: Read
    label_rules: str = ""
    skip_bad: bool = False
    missing: tuple[str, ...] = ()
    _bad: dict[str, None] = field(default_factory=dict, init=False, repr=False)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Sample:
        record = self.records[index]
        return self._sample(record, decode_image(record.image))

    def __iter__(self) -> Iterator[Sample]:
        good = 0
        for record in self.records:
            image = self._decode(record)
            if image is not None:
                yield self._sample(record, image)
                good += 1
        if not good:
            raise DataError(
                f"{self.records[0].image.parent}: expected a readable image, got {len(self.records)} that are not; "
                "set on_bad_image: fail to see why"
            )

    def _sample(self, record: Record, image: Array) -> Sample:
        sample = self.read(record, image)
        return replace(sample, tags=record.tags) if record.tags else sample

    def _decode(self, record: Record) -> Array | None:
        try:
            return decode_image(record.image)
        except DataError:
            if not self.skip_bad:
                raise
            self._bad[record.name] = None
            return None

    @property
    def names(self) -> tuple[str, ...]:
        """The samples' names in order, those of undecodable images included."""
        return tuple(record.name for record in self.records)

    @property
    def skipped(self) -> tuple[str, ...]:
        """The names left out: missing files from the start, undecodable ones once they have been met."""
        return (*self.missing, *self._bad)

    @cached_property
    def fingerprint(self) -> str:
        """The sha256 over class table, names, image files, labels and tags; nothing is decoded."""
        digest = hashlib.sha256(json.dumps([self.classes, self.label_rules]).encode())
        for record in self.records:
            digest.update(json.dumps([record.name, _content(record.image, self.skip_bad), record.size]).encode())
            if record.boxes is not None:
                boxes = record.boxes
                for array in (boxes.xyxy, boxes.labels, boxes.ignore, boxes.area):
                    digest.update(array.tobytes())
                for name, values in sorted(boxes.attributes.items()):
                    digest.update(json.dumps([name, values.tolist()]).encode())
            if record.mask is not None:
                digest.update(hashlib.sha256(read_bytes(record.mask)).digest())
            if record.tags:
                digest.update(json.dumps(sorted(record.tags.items())).encode())
        return digest.hexdigest()


def _content(path: Path, skip_bad: bool) -> str:
    """The sha256 of a file; empty for one that cannot be read and may be skipped."""
    try:
        return hashlib.sha256(read_bytes(path)).hexdigest()
    except DataError:
        if not skip_bad:
            raise
        return ""


def select(items: Sequence[T], settings: SourceSettings) -> tuple[T, ...]:
    """After the first `skip`, every n-th item, then at most `limit` of them."""
    return tuple(items[settings.skip :: settings.every][: settings.limit])


def list_images(folder: Path, recursive: bool = False) -> list[Path]:
    """The image files of a folder, and of its sub-folders if asked, sorted by path; hidden ones are left out.

    Raises DataError for a folder that cannot be read, or that holds no image.
    """
    try:
        found = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder}: expected a folder of images, got {error.strerror}; check the path") from error
    # A link that leads nowhere stays in the list: whoever opens it says so, and no image gets lost in silence.
    images = [path for path in found if path.suffix.lower() in EXTENSIONS and not os.path.isdir(path)]
    folders = [path for path in found if os.path.isdir(path)]
    if recursive:
        images = sorted([*images, *(image for inner in folders for image in _images_below(inner))])
    if not images:
        advice = "; set `recursive: true` to take those of its folders" if folders and not recursive else ""
        raise DataError(f"{folder}: expected images ({', '.join(sorted(EXTENSIONS))}), got none{advice}")
    return images


def _images_below(folder: Path) -> Iterator[Path]:
    # Links to folders are not followed: one may lead back here.
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = (Path(place, name) for name in names if not name.startswith("."))
        yield from (path for path in paths if path.suffix.lower() in EXTENSIONS)


def require(paths: Sequence[Path], what: str, advice: str) -> None:
    """Raise DataError, naming the first and counting them, when files are missing."""
    # Not Path.is_file: that raises where a name is too long or a folder closed.
    missing = [path for path in paths if not os.path.isfile(path)]
    if missing:
        raise DataError(f"{missing[0]}: expected {what}, {len(missing)} of {len(paths)} are missing; {advice}")


def file_source(
    folder: Path,
    records: Sequence[Record],
    classes: tuple[str, ...],
    settings: SourceSettings,
    read: Read,
    label_rules: str = "",
) -> FileSource:
    """Wrap records that are already selected; raises DataError when images are missing, or when none is left."""
    skip = settings.on_bad_image == "skip"
    if not skip:
        require([record.image for record in records], "an image", "copy it there, or set on_bad_image: skip")
    there = tuple(record for record in records if os.path.isfile(record.image))
    if not there:
        raise DataError(
            f"{folder}: expected images, found none of {len(records)} selected (skip: {settings.skip}, "
            f"every: {settings.every}, limit: {settings.limit}); copy them there"
        )
    missing = tuple(record.name for record in records if not os.path.isfile(record.image))
    return FileSource(classes, there, read, label_rules, skip, missing)
