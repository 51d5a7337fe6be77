"""What a block of a network reads and should give, on a bounded number of calibration images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import onnx

from avcompress.quant.learning.blocks import Block, extract
from avcompress.quant.observe import shots
from avcompress.spec import Array, Artifact, Batch, DataError
from engines.in_memory import open_model

IMAGES = 32
"""Images that blocks are learned and judged on, at most."""
IMAGES_BYTES = 128 << 20
BLOCK_BYTES = 192 << 20
"""Of what one block reads and should give; images beyond that are left out for this block."""
_FEWEST = 2  # one to learn from, one to judge by


class Values(NamedTuple):
    """What a block reads and should give on some images, each (N, ...), float32.

    Attributes:
        given: its input in the quantized network.
        wanted: its input in the float network.
        output: its output in the float network.
    """

    given: Array
    wanted: Array
    output: Array


def choose_images(model: onnx.ModelProto, batches: Iterable[Batch], seed: int) -> list[Array]:
    """An even sample of the images for a network, each (1, C, H, W), as many as memory is allowed for.

    Raises DataError when there is none, or one does not fit the network's input.
    Source: Vitter: Random sampling with a reservoir, 1985, algorithm R.
    """
    random = np.random.default_rng(seed)
    source = model.graph.input[0].name
    kept: list[Array] = []
    for seen, shot in enumerate(shots(model, (), batches), start=1):
        image = shot.values[source].copy()
        if len(kept) < max(min(IMAGES, IMAGES_BYTES // image.nbytes), _FEWEST):
            kept.append(image)
        elif (slot := int(random.integers(seen))) < len(kept):
            kept[slot] = image
    return kept


def collect(artifact: Artifact, block: Block, images: Sequence[Array]) -> Values:
    """Run both networks up to the block, and the float one through it, on as many of the images as fit.

    Raises DataError for a value that is not finite.
    """
    runs = (
        _Run(artifact.model, block.source),
        _Run(artifact.reference, block.source),
        _Run(artifact.reference, block.output),
    )
    arrays: list[Array] = []
    count = 0
    for number, image in enumerate(images):
        found = [run(image) for run in runs]
        if not all(np.isfinite(value).all() for value in found):
            raise DataError(
                f"{block.output!r}, sampled image {number + 1}: expected finite values, got NaN or infinity; "
                "check the images and the network's weights"
            )
        if not arrays:
            fitting = max(BLOCK_BYTES // sum(value.nbytes for value in found), _FEWEST)
            count = min(len(images), fitting)
            arrays = [np.empty((count, *value.shape[1:]), np.float32) for value in found]
        for array, value in zip(arrays, found, strict=True):
            array[number] = value[0]
        if number + 1 == count:
            break
    return Values(*arrays)


class _Run:
    """The part of a network that computes one tensor from an image."""

    def __init__(self, model: onnx.ModelProto, tensor: str) -> None:
        self.source, self.tensor = model.graph.input[0].name, tensor
        self.session = open_model(extract(model, self.source, tensor)) if tensor != self.source else None

    def __call__(self, image: Array) -> Array:
        if self.session is None:
            return image
        value: Array = self.session.run([self.tensor], {self.source: image})[0]
        return value
