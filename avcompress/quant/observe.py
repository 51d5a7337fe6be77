"""Collects the histograms of a network's tensors over a calibration set, one image at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import onnxruntime as ort

from avcompress.spec import Array, Batch, DataError, ModelError
from calibration.ranges import Histogram, histogram, merge
from engines.onnx_graph import first_line, shapes, with_outputs

_THREADS = 2


def observe(model: onnx.ModelProto, tensors: Iterable[str], batches: Iterable[Batch]) -> dict[str, Histogram]:
    """Run the network on every image and count the values of the given float32 tensors.

    Raises DataError when there is no image, an image does not fit the network's input, or a value is not finite.
    """
    wanted = tuple(dict.fromkeys(tensors))
    (source,) = (value.name for value in model.graph.input)
    outputs = [tensor for tensor in wanted if tensor != source]
    session = _session(with_outputs(model, outputs))
    found: dict[str, Histogram] = {}
    number = 0
    with ThreadPoolExecutor(_THREADS) as pool:  # counting releases the interpreter's lock
        for number, image in enumerate(_images(batches, source, shapes(model)[source]), start=1):
            values = dict(zip(outputs, session.run(outputs, {source: image}), strict=True)) if outputs else {}
            values[source] = image
            jobs = [(found.get(t), values[t], f"{t!r}, calibration image {number}") for t in wanted]
            found = dict(zip(wanted, pool.map(_updated, *zip(*jobs, strict=True)), strict=True)) if jobs else {}
    if number == 0:
        raise DataError("calibration: expected at least one image, got none; check data.calibration")
    return found


def _updated(found: Histogram | None, values: Array, where: str) -> Histogram:
    if found is None:
        return histogram(values, where=where)
    return merge(found, histogram(values, found.exponent, where))


def _images(batches: Iterable[Batch], source: str, shape: tuple[int, ...]) -> Iterator[Array]:
    """Every image of every batch as the network takes it: float32, (1, C, H, W)."""
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
        yield from (images[i : i + 1] for i in range(len(images)))


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _session(model: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = _THREADS
    # Threads that spin between runs take the cores that the counting needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own exceptions share no other base
        raise ModelError(
            f"ONNX Runtime: expected a model it can run, got: {first_line(error)}; "
            "calibration needs to run the float network"
        ) from error
