"""A network run on images, and its inner tensors handed out, one image after the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar, cast

import numpy as np
import onnx

from avcompress.spec import Array, Batch, DataError
from calibration.batches import NamedBatch
from calibration.preprocess import Geometry
from calibration.statistics import Image, image_digest
from engines.in_memory import open_model
from engines.onnx_graph import shapes, with_outputs

T = TypeVar("T")


class Shot(NamedTuple):
    """One image and the tensors that it led to.

    Attributes:
        where: which image it is, for people.
        geometry: where it lies in the network's input; None where that is not known.
    """

    image: Image
    where: str
    values: dict[str, Array]
    geometry: Geometry | None = None


def shots(
    model: onnx.ModelProto, wanted: tuple[str, ...], batches: Iterable[Batch], optimize: bool = True
) -> Iterator[Shot]:
    """The wanted tensors, one image after the other; those of a network with Q/DQ are exact only without `optimize`.

    While one image's are used, the next image's are computed.
    """
    return _ahead(_shots(model, wanted, batches, optimize))


def _ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items, the next of which is made in a thread of its own while one is used."""
    end = object()
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = pool.submit(next, items, end)
            yield cast(T, item)


def _shots(model: onnx.ModelProto, wanted: tuple[str, ...], batches: Iterable[Batch], optimize: bool) -> Iterator[Shot]:
    (source,) = (value.name for value in model.graph.input)
    outputs = [tensor for tensor in wanted if tensor != source]
    session = open_model(with_outputs(model, outputs), optimize)
    number = 0
    for number, (name, image, geometry) in enumerate(_images(batches, source, shapes(model)[source]), start=1):
        values = dict(zip(outputs, session.run(outputs, {source: image}), strict=True)) if outputs else {}
        values[source] = image
        where = f"calibration image {number}" + (f" ({name})" if name else "")
        # Without a name its number stands for it, with zeros so that the order of names is that of numbers.
        yield Shot(Image(name or f"image {number:09d}", image_digest(image)), where, values, geometry)
    if number == 0:
        raise DataError("calibration: expected at least one image, got none; check data.calibration")


def _images(
    batches: Iterable[Batch], source: str, shape: tuple[int, ...]
) -> Iterator[tuple[str, Array, Geometry | None]]:
    """Every image of every batch as the network takes it, float32 (1, C, H, W); name and place if the batch knows."""
    for number, batch in enumerate(batches, start=1):
        if source not in batch:
            raise DataError(
                f"calibration batch {number}: expected the input {source!r}, got {', '.join(batch) or 'nothing'}"
            )
        images = np.asarray(batch[source], np.float32)
        if images.shape[1:] != shape[1:]:
            raise DataError(
                f"calibration batch {number}: expected {source!r} of {_by(shape[1:])} an image, "
                f"got {_by(images.shape[1:])}; set preprocess.size to the network's input"
            )
        names = batch.names if isinstance(batch, NamedBatch) else ("",) * len(images)
        places = (batch.geometries if isinstance(batch, NamedBatch) else ()) or (None,) * len(images)
        yield from ((name, images[i : i + 1], places[i]) for i, name in enumerate(names))


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
