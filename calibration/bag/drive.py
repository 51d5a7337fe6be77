"""The frames of a recorded drive as calibration images: a Source, and where its images come from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from avcompress.files import sha256_file
from avcompress.recipe_drive import RosbagSource
from avcompress.spec import DataError
from calibration.bag.choosing import Chosen, choose
from calibration.bag.coverage import Coverage, coverage
from calibration.bag.reading import BagFrames, Recorded, image_topics, open_bag
from calibration.bag.scanning import Distinct, Scan, scan
from calibration.frame import to_rgb
from calibration.sample import Sample
from calibration.statistics import Drive

_STORED = frozenset({".mcap", ".db3", ".zstd"})


class _Selected(NamedTuple):
    frames: tuple[Distinct, ...]
    unreadable: tuple[int, ...]
    coverage: Coverage


@dataclass(frozen=True, eq=False)
class DriveSource:
    """A Source; the drive is gone through when it is first asked for anything, and each image decoded when it is."""

    path: Path
    topic: str
    settings: RosbagSource
    classes: tuple[str, ...] = ()

    @cached_property
    def _selected(self) -> _Selected:
        with open_bag(self.path, {"": self.topic}) as frames:
            span = frames.span_ns
            found = scan(_in_range(frames, self.settings), self.settings, f"{self.path}, {self.topic}")
        if not found.distinct:
            raise DataError(f"{self.path}, {self.topic}: {_nothing(found, self.settings, span)}")
        chosen = _choose(found, self.settings)
        return _Selected(
            tuple(found.distinct[i] for i in chosen.indices),
            tuple(found.unreadable),
            coverage(self.path.name, self.topic, span, found, chosen),
        )

    @property
    def coverage(self) -> Coverage:
        """Where the frames of the drive went."""
        return self._selected.coverage

    @property
    def names(self) -> tuple[str, ...]:
        """Topic and time of recording, in nanoseconds: front/image_raw/1700000000000000000."""
        return tuple(self._name(frame.recorded_ns) for frame in self._selected.frames)

    @property
    def skipped(self) -> tuple[str, ...]:
        """Those that cannot be decoded."""
        return tuple(map(self._name, self._selected.unreadable))

    @cached_property
    def fingerprint(self) -> str:
        """The sha256 over class table, names and the bytes of the frames as they were sent."""
        digest = hashlib.sha256(json.dumps(self.classes).encode())
        for recorded in self._recorded(self._selected.frames):
            content = hashlib.sha256(np.ascontiguousarray(recorded.frame.data).data).hexdigest()
            digest.update(json.dumps([self._name(recorded.recorded_ns), content]).encode())
        return digest.hexdigest()

    def drive(self) -> Drive:
        """Where the images come from; reads the whole bag for its hash."""
        return Drive(
            bag=self.path.name,
            sha256=bag_digest(self.path),
            topic=self.topic,
            settings=self.settings.model_dump_json(exclude={"format", "bag", "topic"}),
            recorded_ns=tuple(frame.recorded_ns for frame in self._selected.frames),
            stamps_ns=tuple(frame.stamp_ns for frame in self._selected.frames),
        )

    def __len__(self) -> int:
        return len(self._selected.frames)

    def __iter__(self) -> Iterator[Sample]:
        return map(self._sample, self._recorded(self._selected.frames))

    def __getitem__(self, index: int, /) -> Sample:
        return self._sample(next(iter(self._recorded((self._selected.frames[index],)))))

    def _recorded(self, wanted: tuple[Distinct, ...]) -> Iterator[Recorded]:
        with open_bag(self.path, {"": self.topic}) as frames:
            for frame in wanted:
                at = frame.recorded_ns
                # Of several of one time the first was looked at.
                recorded = next(frames.between(at, at + 1), None)
                if recorded is None:
                    raise DataError(
                        f"{self.path}, {self.topic}: expected the frame at {at} ns, got none; leave the bag as it is "
                        "while it is read"
                    )
                yield recorded

    def _sample(self, recorded: Recorded) -> Sample:
        try:
            return Sample(self._name(recorded.recorded_ns), to_rgb(recorded.frame))
        except DataError as error:
            raise DataError(f"{self.path}, {self.topic}, frame at {recorded.recorded_ns} ns: {error}") from error

    def _name(self, recorded_ns: int) -> str:
        return f"{self.topic.strip('/')}/{recorded_ns}"


def open_drive(settings: RosbagSource, root: Path, classes: tuple[str, ...] | None) -> DriveSource:
    """Open a camera's frames; samples have no labels.

    Raises DataError for what is no bag, has no images, or several topics with images of which none is named;
    MissingError without `rosbags`.
    """
    path = root / settings.bag
    return DriveSource(path, _topic(path, settings), settings, classes or ())


def _topic(path: Path, settings: RosbagSource) -> str:
    found = image_topics(path)
    if not found:
        raise DataError(f"{path}: expected a topic with images, got none; give another bag")
    if settings.topic is None and len(found) > 1:
        raise DataError(f"{path}: expected `topic`, as there are images on {', '.join(found)}; name one of these")
    topic = settings.topic or found[0]
    if topic not in found:
        raise DataError(f"{path}: expected images on {topic}, got them on {', '.join(found)}; name one of these")
    return topic


def _in_range(frames: BagFrames, settings: RosbagSource) -> Iterator[Recorded]:
    begun = frames.span_ns[0]
    stop = None if settings.end_s is None else begun + round(settings.end_s * 1e9)
    return frames.between(begun + round(settings.start_s * 1e9), stop)


def _nothing(found: Scan, settings: RosbagSource, span: tuple[int, int]) -> str:
    if found.read:
        return f"expected a readable frame, got {found.read} that are not; set on_bad_image: fail to see why"
    end = "the end" if settings.end_s is None else f"{settings.end_s:g} s"
    return (
        f"expected frames from {settings.start_s:g} s to {end}, got none; the recording lasts "
        f"{(span[1] - span[0]) / 1e9:.1f} s: mend start_s and end_s"
    )


def _choose(found: Scan, settings: RosbagSource) -> Chosen:
    descriptors = np.stack([frame.descriptor for frame in found.distinct])
    brightness = np.array([frame.brightness for frame in found.distinct])
    return choose(descriptors, brightness, settings.count, settings.seed)


def bag_digest(path: Path) -> str:
    """The sha256 of a bag that is one file; of a folder, over the names and sha256 of the files that hold messages."""
    if path.is_file():
        return sha256_file(path)
    stored = sorted(each for each in path.iterdir() if each.suffix in _STORED)
    return hashlib.sha256(json.dumps([[each.name, sha256_file(each)] for each in stored]).encode()).hexdigest()
