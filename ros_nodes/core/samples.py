"""Images unlike those that the network was calibrated on, kept for the next calibration, within a bound of disk."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Set
from pathlib import Path
from typing import NamedTuple

import cv2

from avcompress.files import write_atomically
from avcompress.spec import Array, DataError
from calibration.frame import CompressedImage, Frame, to_rgb
from ros_nodes.core.drift import Excess

_SIGNATURES = {b"\xff\xd8\xff": "jpg", b"\x89PNG": "png"}


class Sample(NamedTuple):
    """An image and why it is kept; `figures` are its own, `worst` is that of the images before it, too."""

    camera: str
    frame: Frame
    engine: str
    figures: Mapping[str, float]
    worst: Excess | None


class Samples:
    """A folder of images, each with a JSON file beside it, that `format: images` takes as it is.

    Attributes:
        saved: written since the node began.
        refused: left out as the folder is as full as it may be. Nothing is ever removed: who collects the images does.
    """

    def __init__(self, folder: str | None, most: int, most_bytes: int) -> None:
        self._folder = None if folder is None else Path(folder)
        self._most, self._most_bytes = most, most_bytes
        self.saved = self.refused = 0

    @property
    def wanted(self) -> bool:
        """Whether there is a folder at all."""
        return self._folder is not None

    def write(self, sample: Sample) -> None:
        """Write an image and what is known of it, each whole or not at all.

        Raises DataError for an image that cannot be read, OutputError where it cannot be written.
        """
        if self._folder is None:
            return
        suffix, data = _file(sample.frame)
        facts = json.dumps(_facts(sample), indent=1).encode()
        there = list(self._folder.iterdir()) if self._folder.is_dir() else []
        if not self._has_room(there, len(data) + len(facts)):
            self.refused += 1
            return
        name = _free_name(f"{sample.camera}_{sample.frame.header.stamp_ns:019d}", {file.stem for file in there})
        # The facts first: an image of which nothing is known would be of less use than facts without an image.
        write_atomically(self._folder / f"{name}.json", facts)
        write_atomically(self._folder / f"{name}.{suffix}", data)
        self.saved += 1

    def _has_room(self, there: Iterable[Path], size_bytes: int) -> bool:
        """Whether one more fits, those of earlier days included."""
        files = [(file.suffix, file.stat().st_size) for file in there]
        used, images = sum(size for _, size in files), sum(suffix == ".json" for suffix, _ in files)
        return images < self._most and used + size_bytes <= self._most_bytes


def _free_name(name: str, taken: Set[str]) -> str:
    """The name, with a number after it where it is taken: cameras without a clock stamp all images alike."""
    names = itertools.chain([name], (f"{name}_{number}" for number in itertools.count(1)))
    return next(free for free in names if free not in taken)


def _file(frame: Frame) -> tuple[str, bytes]:
    """The ending and the content of a file: the camera's own where it is one that is read everywhere, else a PNG."""
    if isinstance(frame, CompressedImage):
        data = frame.data.tobytes()
        for signature, suffix in _SIGNATURES.items():
            if data.startswith(signature):
                return suffix, data
    return "png", _png(to_rgb(frame))


def _png(image: Array) -> bytes:
    done, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), (cv2.IMWRITE_PNG_COMPRESSION, 1))
    if not done:
        raise DataError(f"sample: expected an image that PNG can hold, got {image.shape}; mend the camera's driver")
    return data.tobytes()


def _facts(sample: Sample) -> dict[str, object]:
    header, worst = sample.frame.header, sample.worst
    return {
        "camera": sample.camera,
        "stamp_ns": header.stamp_ns,
        "frame_id": header.frame_id,
        "engine": sample.engine,
        "drift": None
        if worst is None
        else {"figure": worst.figure, "mean": worst.value, "low": worst.band.low, "high": worst.band.high},
        "figures": dict(sample.figures),
    }
