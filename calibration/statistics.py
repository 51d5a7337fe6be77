"""What calibration images say about a network's tensors: enough for every range method, from one pass over them.

Statistics of several sets of images merge into those of all of them, in any order, to the same bytes. Their size grows
with the images by their names only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from avcompress.recipe import Preprocess
from avcompress.spec import Array, DataError
from calibration.histogram import Histogram, merge

WINDOW = 1024
"""The images, the last by name, that the moving average is taken over: one before them would weigh 0.99**1024."""


class Image(NamedTuple):
    """A calibration image: its name, and what tells it from others of that name."""

    name: str
    digest: str


class Drive(NamedTuple):
    """A recorded drive that calibration images are from.

    Attributes:
        bag: the name of its file or folder.
        sha256: of the messages' files.
        topic: the camera's.
        settings: how the images were selected, as JSON.
        recorded_ns: of the images, in order, by the recorder's clock: what they are found again by.
        stamps_ns: of the images, by the camera's clock.
    """

    bag: str
    sha256: str
    topic: str
    settings: str
    recorded_ns: tuple[int, ...]
    stamps_ns: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class TensorStatistics:
    """What is known of one tensor.

    Attributes:
        histogram: of its values on all images.
        extremes: (min(images, WINDOW), 2) float32, its lowest and highest value on each of the last images by name.
    """

    histogram: Histogram
    extremes: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Statistics:
    """What is known of a network's tensors.

    Attributes:
        network: the digest of the float network that the tensors are of.
        preprocess: the digest of the preprocessing; empty where it is not known.
        images: in the order of their names.
        tensors: by name.
        drives: that images are from; of images from elsewhere nothing is said.
        figures: of inputs and outputs, by name: (min(images, WINDOW),) float32, rows as those of extremes; NaN where a
            tensor was not finite. Empty where nobody took them.
    """

    network: str
    preprocess: str
    images: tuple[Image, ...]
    tensors: Mapping[str, TensorStatistics]
    drives: tuple[Drive, ...] = ()
    figures: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)


def image_digest(image: Array) -> str:
    """A hash over every fourth pixel of every fourth row: it tells images apart, not pixels.

    Args:
        image: (..., H, W) float32.
    """
    return hashlib.sha256(image[..., ::4, ::4].tobytes()).hexdigest()[:16]


def preprocess_digest(settings: Preprocess) -> str:
    """A hash over the settings."""
    return hashlib.sha256(settings.model_dump_json().encode()).hexdigest()[:16]


def union(parts: Sequence[TensorStatistics]) -> TensorStatistics:
    """The statistics of several tensors of one network as if they were one: their values under one scale."""
    extremes = np.stack([part.extremes for part in parts])
    return TensorStatistics(
        reduce(merge, (part.histogram for part in parts)),
        np.stack([extremes[:, :, 0].min(axis=0), extremes[:, :, 1].max(axis=0)], axis=1),
    )


def merge_statistics(parts: Mapping[str, Statistics]) -> Statistics:
    """The statistics of all images of all parts, as one pass over them would have given.

    Args:
        parts: by what the user calls them: their files.

    Raises DataError when parts are of different networks, preprocessing or tensors, or share images.
    """
    (first_name, first), *others = parts.items()
    for name, part in others:
        _refuse_unlike(first_name, first, name, part)
    _refuse_shared(parts)
    return reduce(_merged, parts.values())


def _refuse_unlike(first_name: str, first: Statistics, name: str, part: Statistics) -> None:
    for what, one, other in (
        ("network", first.network, part.network),
        ("preprocessing", first.preprocess, part.preprocess),
    ):
        if one != other:
            raise DataError(
                f"{name}: expected statistics of the same {what} as {first_name}, {one}, got {other}; "
                "collect them again with one recipe and one version of avcompress"
            )
    missing = sorted(first.tensors.keys() ^ part.tensors.keys())
    if missing:
        raise DataError(
            f"{name}: expected statistics of the same tensors as {first_name}, {len(missing)} are in one of them only, "
            f"{missing[0]!r} the first; collect them again with one recipe"
        )


def _refuse_shared(parts: Mapping[str, Statistics]) -> None:
    seen: dict[Image, str] = {}
    shared: list[tuple[Image, str, str]] = []
    for name, part in parts.items():
        shared += [(image, seen[image], name) for image in dict.fromkeys(part.images) if image in seen]
        seen.update(dict.fromkeys(part.images, name))
    if shared:
        image, one, other = shared[0]
        raise DataError(
            f"{other}: expected images that no other part has, got {len(shared)} that are counted already, "
            f"{image.name!r} the first, in {one}; leave one of the two files out"
        )


def _merged(a: Statistics, b: Statistics) -> Statistics:
    recent = [*a.images[-WINDOW:], *b.images[-WINDOW:]]
    last = sorted(range(len(recent)), key=recent.__getitem__)[-WINDOW:]
    tensors = {
        name: TensorStatistics(
            merge(one.histogram, b.tensors[name].histogram),
            np.concatenate([one.extremes, b.tensors[name].extremes])[last],
        )
        for name, one in a.tensors.items()
    }
    return Statistics(
        a.network,
        a.preprocess,
        tuple(sorted((*a.images, *b.images))),
        tensors,
        # Parts of one set of images name the same drives, each of them whole.
        tuple(sorted({*a.drives, *b.drives})),
        {name: values[last] for name, values in join_figures(a, b).items()},
    )


def join_figures(a: Statistics, b: Statistics) -> dict[str, NDArray[np.float32]]:
    """Those of both, of `a` first; none where one of the two has none."""
    return {name: np.concatenate([values, b.figures[name]]) for name, values in a.figures.items() if name in b.figures}
