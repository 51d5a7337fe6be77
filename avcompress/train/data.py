"""How labelled samples become the batches of a training.

`samples[i].image` of a batch is the (H, W, 3) uint8 picture behind input i before scaling and shifting; boxes and mask
lie on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import cv2
import numpy as np
import torch
from torch import Tensor

from avcompress.recipe import Preprocess
from avcompress.recipe_training import Augment, Training
from avcompress.spec import Array, DataError, Track, untracked
from avcompress.train.augment import Chance, draw, place
from avcompress.train.loop import Turn
from calibration.preprocess import mask_to_network, preprocess, to_network
from calibration.sample import Sample, Source

_MB = 1 << 20


class Pictures(Protocol):
    """Samples in pixels of the network's input: held, or made at each use."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample: ...


@dataclass(frozen=True)
class Streamed:
    """Pictures that are decoded at each use; `indices` are those of the source that can be."""

    source: Source
    raw: Preprocess
    indices: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return _to_network(self.source[self.indices[index]], self.raw)


@dataclass(frozen=True)
class Dataset:
    """Samples in pixels of the network's input, ready to be gathered.

    Attributes:
        pictures: name, (H, W, 3) uint8 image in the network's channel order, boxes and mask on it.
        table: (3, 256) float32, the network's input for every value of a channel.
        names: of the pictures.
        pad: the grey of what an augmented picture lacks.
    """

    pictures: Pictures
    table: Array
    names: tuple[str, ...] = ()
    pad: int = 114

    def batch(
        self, indices: Sequence[int], chance: Chance, augment: Augment | None = None, part: slice = slice(None)
    ) -> tuple[Tensor, list[Sample]]:
        """Inputs (B, 3, H, W) float32 and their samples, augmented by chance.

        With `part` only that part of them, just as it is in the whole batch.
        """
        changes = [draw(chance, augment or Augment()) for _ in indices]
        inputs, batch = [], []
        for index, change in list(zip(indices, changes, strict=True))[part]:
            picture = place(self.pictures[index], change, self.pad)
            lit = np.clip(np.arange(256) * change.gain + 0.5, 0, 255).astype(np.uint8)
            batch.append(replace(picture, image=cv2.LUT(picture.image, lit)))
            planes = zip(cv2.split(picture.image), self.table, strict=True)
            inputs.append(np.stack([cv2.LUT(plane, values[lit]) for plane, values in planes]))
        return torch.from_numpy(np.stack(inputs)), batch


@dataclass(frozen=True)
class Feed:
    """The batches of a training: what each step shows, and what chance does to it.

    Attributes:
        order: (steps, batch_size) indices of samples.
        starts: where the samples of each sort begin in the dataset: of one sort at 0.
    """

    dataset: Dataset
    settings: Training
    order: Array
    starts: tuple[int, ...] = (0,)

    def __call__(self, turn: Turn) -> tuple[Tensor, list[Sample]]:
        """Inputs and samples of one turn."""
        indices = self.order[turn.step]
        chance = np.random.default_rng((self.settings.seed, turn.step))
        return self.dataset.batch(indices, chance, self.settings.augment, turn.share(len(indices)))

    def some(self, count: int) -> Tensor:
        """The inputs of a few samples, of each sort about as many: the first ones, as they are trained on."""
        ends = (*self.starts[1:], len(self.dataset.pictures))
        each = -(-count // len(self.starts))
        indices = [
            i for start, end in zip(self.starts, ends, strict=True) for i in range(start, min(start + each, end))
        ]
        chance = np.random.default_rng(self.settings.seed)
        return self.dataset.batch(indices, chance, self.settings.augment)[0]

    def names(self, step: int) -> tuple[str, ...]:
        """Of a step's samples, those of all its turns."""
        return tuple(self.dataset.names[index] for index in self.order[step])


def feed(dataset: Dataset, settings: Training) -> Feed:
    """Batches in the order that the settings' seed gives."""
    return Feed(dataset, settings, batch_order(len(dataset.pictures), settings))


def load(
    samples: Source, preprocessing: Preprocess, track: Track = untracked, hold_mb: int = 2048, labels: bool = True
) -> Dataset:
    """Bring every sample into pixels of the network's input, once, and keep it as bytes: 3 a pixel, 4 with a mask.

    Where all of them take more than `hold_mb`, each is decoded now, to see that it can be, and again at each use.
    Raises DataError for a sample without labels where they are needed, or when there is no sample.
    """
    raw = preprocessing.model_copy(update={"mean": (0.0,) * 3, "std": (1.0,) * 3, "scale": 1.0})
    table = _table(preprocessing)
    pictures: list[Sample] = []
    names: list[str] = []
    held = True
    for sample in track(samples, len(samples)):
        if labels and sample.boxes is None and sample.mask is None:
            raise DataError(f"{sample.name}: expected boxes or a mask to learn from, got neither; check data.train")
        if not names:
            held = _size_bytes(sample, raw) * len(samples) <= hold_mb * _MB
        names.append(sample.name)
        if held:
            pictures.append(_to_network(sample, raw))
    if not names:
        raise DataError("train: expected samples to learn from, got none; check data.train")
    chosen: Pictures = tuple(pictures) if held else Streamed(samples, raw, _positions(samples.names, names))
    return Dataset(chosen, table, tuple(names), preprocessing.pad)


def _size_bytes(sample: Sample, raw: Preprocess) -> int:
    return raw.size[0] * raw.size[1] * (3 if sample.mask is None else 4)


def _positions(known: Sequence[str], found: Sequence[str]) -> tuple[int, ...]:
    """Where those that were found, in order, stand among those that are known."""
    positions, start = [], 0
    for name in found:
        start = known.index(name, start)
        positions.append(start)
        start += 1
    return tuple(positions)


def _to_network(sample: Sample, raw: Preprocess) -> Sample:
    pixels, geometry = preprocess(sample.image, raw)
    image = np.ascontiguousarray(pixels[0].transpose(1, 2, 0).astype(np.uint8))
    boxes, mask = sample.boxes, sample.mask
    if boxes is not None:
        boxes = replace(boxes, xyxy=to_network(boxes.xyxy, geometry))
    if mask is not None:
        mask = mask_to_network(mask, raw)
    return Sample(sample.name, image, boxes, mask)


def _table(preprocessing: Preprocess) -> Array:
    """What preprocessing makes of each of the 256 values, by channel of the network: (3, 256) float32."""
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    values, _ = preprocess(ramp, preprocessing.model_copy(update={"size": (1, 256)}))
    table: Array = values[0, :, 0]
    return table


def batch_order(count: int, settings: Training) -> Array:
    """Sample indices (steps, batch_size): every sample once before any comes again."""
    steps = settings.count_steps(count)
    rng = np.random.default_rng(settings.seed)
    rounds = -(-steps * settings.batch_size // count)
    order = np.concatenate([rng.permutation(count) for _ in range(rounds)])
    return order[: steps * settings.batch_size].reshape(steps, settings.batch_size)
