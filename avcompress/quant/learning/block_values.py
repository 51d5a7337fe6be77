"""What a block of a network reads and should give, on a bounded number of calibration images."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import onnx
from onnxruntime import InferenceSession

from avcompress.quant.learning.blocks import Block, extract_between, starts
from avcompress.shots import shots
from avcompress.spec import Array, Artifact, Batch, DataError
from engines.in_memory import open_model

IMAGES = 32
"""Images that blocks are learned and judged on, at most."""
IMAGES_BYTES = 128 << 20
BLOCK_BYTES = 192 << 20
"""Of what one block reads and should give; images beyond that are left out for this block."""
KEPT_BYTES = 96 << 20
"""Of one network's values that are kept from block to block."""
HELD_OUT = 4
"""Every fourth image is held out, the second one first."""
_FEWEST = 2  # one to learn from, one to judge by


class Values(NamedTuple):
    """What a block reads and should give on some images, each (N, *shape of one image's tensor), float32.

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


class _Part(NamedTuple):
    """A part of a network, and the tensors that it reads and gives; no session where nothing is left to compute."""

    given: list[str]
    missing: list[str]
    session: InferenceSession | None


class Passage:
    """One network on the sampled images, run from block to block: each tensor is computed from those already known.

    Values are kept while later blocks need them, and KEPT_BYTES allow for it; what is not kept is computed again.
    """

    def __init__(self, source: str, images: Sequence[Array], optimize: bool = False) -> None:
        """Begin with the network's input."""
        self._known: list[dict[str, Array]] = [{source: image} for image in images]
        self._source, self._optimize = source, optimize
        self._parts: dict[tuple[str, ...], _Part] = {}
        self._model = onnx.ModelProto()
        self._tensors: tuple[str, ...] = ()

    def turn_to_(self, model: onnx.ModelProto, tensors: Sequence[str], later: Collection[str]) -> None:
        """Prepare to compute some tensors; forget what neither they nor later ones are computed from."""
        self._model, self._tensors = model, tuple(dict.fromkeys(tensors))
        self._parts = {}
        needed: dict[tuple[str, ...], set[str]] = {}  # images that the same is known of need the same
        for known in self._known:
            names = tuple(known)
            if names not in needed:
                needed[names] = {self._source, *starts(model, names, {*tensors, *later})}
            for name in known.keys() - needed[names]:
                del known[name]

    def run(self, number: int) -> dict[str, Array]:
        """The tensors on one image."""
        known = self._known[number]
        names = tuple(known)
        if names not in self._parts:
            self._parts[names] = self._part(names)
        given, missing, session = self._parts[names]
        found = session.run(missing, {name: known[name] for name in given}) if session else []
        return {**known, **dict(zip(missing, found, strict=True))}

    def _part(self, known: Collection[str]) -> _Part:
        """What computes the tensors from known ones."""
        missing = [name for name in self._tensors if name not in known]
        given = starts(self._model, known, missing)
        part = extract_between(self._model, given, missing) if missing else None
        return _Part(given, missing, open_model(part, self._optimize) if part else None)

    def keep_(self, number: int, values: Mapping[str, Array]) -> None:
        """Know these tensors of an image from now on, if there is room."""
        known = self._known[number]
        kept = sum(value.nbytes for each in self._known for name, value in each.items() if name != self._source)
        if kept + sum(value.nbytes for value in values.values()) <= KEPT_BYTES:
            known.update((name, value) for name, value in values.items() if name not in known)


class Passages(NamedTuple):
    """Both networks on the same images."""

    quantized: Passage
    reference: Passage
    images: int


def begin(reference: onnx.ModelProto, images: Sequence[Array]) -> Passages:
    """Both networks before the first block."""
    source = reference.graph.input[0].name
    return Passages(Passage(source, images), Passage(source, images, optimize=True), len(images))


def collect(artifact: Artifact, blocks: Sequence[Block], passages: Passages) -> Values:
    """Run both networks up to the first of some blocks, and the float one through it, on as many images as fit.

    The networks are run on from the blocks before, whose weights may have changed since, but none before those.
    Raises DataError for a value that is not finite.
    """
    block, *later = blocks
    passages.quantized.turn_to_(artifact.model, (block.source,), {each.source for each in later})
    ends = {name for each in later for name in (each.source, each.output)}
    passages.reference.turn_to_(artifact.reference, (block.source, block.output), ends)
    arrays: list[Array] = []
    count = passages.images
    number = 0
    while number < count:
        reference = passages.reference.run(number)
        found = [passages.quantized.run(number)[block.source], reference[block.source], reference[block.output]]
        if not all(np.isfinite(value).all() for value in found):
            raise DataError(
                f"{block.output!r}, sampled image {number + 1}: expected finite values, got NaN or infinity; "
                "check the images and the network's weights"
            )
        if not arrays:
            fitting = max(BLOCK_BYTES // sum(value.nbytes for value in found), _FEWEST)
            count = min(count, fitting)
            arrays = [np.empty((count, *value.shape), np.float32) for value in found]
        for array, value in zip(arrays, found, strict=True):
            array[number] = value
        given, wanted, output = (array[number] for array in arrays)
        passages.quantized.keep_(number, {block.source: given})
        passages.reference.keep_(number, {block.source: wanted, block.output: output})
        number += 1
    return Values(*arrays)
