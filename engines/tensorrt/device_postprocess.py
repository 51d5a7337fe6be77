"""Post-processing on the GPU, behind the engine in the same stream: what travels to the host is boxes, or a class map.

Equal to engines.postprocess bit for bit: the same boxes in the same order. The kernels are in postprocess.cu.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from typing_extensions import assert_never

from avcompress.recipe import Detection, Segmentation, Task
from avcompress.spec import Array, EngineError
from engines.postprocess import Detections, Finished, Size, cells, check_shape, not_finite
from engines.session import InputSpec
from engines.tensorrt.cuda import Cuda
from engines.tensorrt.kernels import Kernels, open_kernels
from engines.tensorrt.parts import Parts
from engines.tensorrt.session import TrtSession

_THREADS = 128
_SUPPRESS_THREADS = 512  # of the one block that walks down the candidates
_DECODERS = {"yolox": 0, "yolov5": 1, "yolov8": 2, "ltrb": 3}
_NOT_FINITE, _KEPT = 1, 2  # of the four counters


class Output(NamedTuple):
    """The engine's output that is post-processed."""

    name: str
    shape: tuple[int, ...]


def attach_postprocess(session: TrtSession, task: Task, input_size: Size) -> None:
    """Post-process every run of the session on the device; `run` then returns engines.postprocess.Finished.

    Compiles the kernels, which takes a moment. Raises EngineError when the engine's output is not one of float32
    that fits the task, MissingError where there is no compiler.
    """

    def make(cuda: Cuda, stream: int, outputs: Mapping[str, InputSpec]) -> DevicePostprocess:
        output = _output(outputs, task, input_size)
        return open_device_postprocess(cuda, open_kernels(cuda), (output, task, input_size), stream)

    session.attach(make)


def _output(outputs: Mapping[str, InputSpec], task: Task, input_size: Size) -> Output:
    if len(outputs) != 1:
        raise EngineError(
            f"outputs: expected one, got {', '.join(map(repr, outputs)) or 'none'}; build the engine with the one to "
            "decode"
        )
    ((name, spec),) = outputs.items()
    if spec.dtype != np.float32:
        raise EngineError(
            f"output {name!r}: expected float32 to post-process on the device, got {spec.dtype}; keep the network's "
            "outputs float32, or post-process on the host"
        )
    check_shape(name, tuple(spec.shape), task, input_size)
    return Output(name, tuple(spec.shape))


def open_device_postprocess(
    cuda: Cuda, kernels: Kernels, what: tuple[Output, Task, Size], stream: int
) -> DevicePostprocess:
    """Make room on the device, inside `cuda.current()`; closes the kernels in the end, also where this fails."""
    output, task, input_size = what
    with contextlib.ExitStack() as stack:
        stack.callback(kernels.close)
        found: DevicePostprocess
        match task:
            case Detection():
                found = DeviceDetections(cuda, kernels, output, task, input_size)
            case Segmentation():
                found = DeviceClassMap(cuda, kernels, output, input_size)
            case _:
                assert_never(task)
        stack.pop_all()
    with contextlib.ExitStack() as stack:
        stack.callback(found.close)
        found.prepare(stream)
        stack.pop_all()
    return found


class DevicePostprocess:
    """Post-processes the engine's one output where that lies on the device.

    Args:
        held: what the kernels read and write, given to the device once.
        found: what travels back after every run.
    """

    def __init__(
        self, cuda: Cuda, kernels: Kernels, output: Output, held: Mapping[str, Array], found: Mapping[str, Array]
    ) -> None:
        self._kernels, self._output = kernels, output
        self._held = Parts(cuda, held)
        self._found = Parts(cuda, {"counters": np.zeros(4, np.int32), **found})

    def prepare(self, stream: int) -> None:
        """Allocate, and hand the tables to the device."""
        self._found.allocate()
        self._held.allocate()
        self._held.upload(stream)

    def submit(self, addresses: Mapping[str, int], stream: int) -> None:
        """Launch all, given where the engine's outputs are: may be recorded in a CUDA graph."""
        self._launch("reset", 4, stream, self._found.address("counters"))
        self._submit(np.uint64(addresses[self._output.name]), stream)
        self._found.download(stream)

    def outputs(self) -> Finished:
        """What was found, when the stream got there; raises EngineError where the output held NaN or infinity."""
        bad = int(self._found.array("counters")[_NOT_FINITE])
        if bad:
            raise not_finite(self._output.name, bad, int(np.prod(self._output.shape)))
        return Finished(self._result())

    def close(self) -> None:
        """Give all back; a second call does nothing."""
        with contextlib.ExitStack() as stack:
            stack.callback(self._kernels.close)
            stack.callback(self._held.close)
            stack.callback(self._found.close)

    def _launch(self, name: str, work: int, stream: int, *arguments: np.generic) -> None:
        """One thread for each piece of work."""
        self._kernels.launch(name, -(-work // _THREADS), _THREADS, arguments, stream)

    def _submit(self, address: np.uint64, stream: int) -> None:
        raise NotImplementedError

    def _result(self) -> Detections | NDArray[np.uint8]:
        raise NotImplementedError


class DeviceDetections(DevicePostprocess):
    """Decode, sort, suppress."""

    def __init__(self, cuda: Cuda, kernels: Kernels, output: Output, task: Detection, input_size: Size) -> None:
        self._task = task
        rows = output.shape[1:] if task.decode != "yolov8" else output.shape[:0:-1]
        self._anchors, self._width = rows
        candidates = {
            "boxes": np.empty((self._anchors, 4), np.float32),
            "scores": np.empty(self._anchors, np.float32),
            "labels": np.empty(self._anchors, np.int32),
        }
        held = {
            "cells": _cells(task, self._anchors, input_size),
            "keys": np.empty(self._anchors, np.uint64),
            "removed": np.empty(self._anchors, np.uint8),
            **candidates,
            **{f"sorted_{name}": values for name, values in candidates.items()},
        }
        most = min(task.max_detections, self._anchors)
        super().__init__(cuda, kernels, output, held, {name: values[:most] for name, values in candidates.items()})

    def _submit(self, address: np.uint64, stream: int) -> None:
        task, counters = self._task, self._found.address("counters")
        boxes, scores, labels = (self._held.address(name) for name in ("boxes", "scores", "labels"))
        keys, cells_, removed = (self._held.address(name) for name in ("keys", "cells", "removed"))
        by_score = [self._held.address(f"sorted_{name}") for name in ("boxes", "scores", "labels")]
        kept = [self._found.address(name) for name in ("boxes", "scores", "labels")]
        shape = (np.int32(self._anchors), np.int32(self._width), np.int32(_DECODERS[task.decode]))
        limits = (np.float32(task.nms_iou), np.int32(len(self._found.array("scores"))))
        self._launch(
            "decode",
            self._anchors,
            stream,
            *(address, cells_, *shape, np.float32(task.score_threshold)),
            *(counters, keys, boxes, scores, labels),
        )
        self._launch("sort_candidates", self._anchors, stream, counters, keys, boxes, scores, labels, *by_score)
        arguments = (counters, *by_score, *limits, removed, *kept)
        self._kernels.launch("suppress", 1, _SUPPRESS_THREADS, arguments, stream)

    def _result(self) -> Detections:
        kept = int(self._found.array("counters")[_KEPT])
        xyxy, scores, labels = (self._found.array(name)[:kept].copy() for name in ("boxes", "scores", "labels"))
        return Detections(xyxy, scores, labels.astype(np.int64))


def _cells(task: Detection, anchors: int, input_size: Size) -> Array:
    """(anchors, 3): x, y of each one's cell, in strides, and the stride; zeros where the decoder has no grid."""
    if task.decode in {"yolov5", "yolov8"}:
        return np.zeros((anchors, 3), np.float32)
    return np.concatenate(cells(np.arange(anchors), task.strides, input_size), axis=1)


class DeviceClassMap(DevicePostprocess):
    """Resize, and argmax."""

    def __init__(self, cuda: Cuda, kernels: Kernels, output: Output, input_size: Size) -> None:
        self._size = input_size
        top, lower_part = mixing(output.shape[2], input_size[0])
        left, right_part = mixing(output.shape[3], input_size[1])
        held = {"top": top, "lower_part": lower_part, "left": left, "right_part": right_part}
        super().__init__(cuda, kernels, output, held, {"map": np.empty(input_size, np.uint8)})

    def _submit(self, address: np.uint64, stream: int) -> None:
        values = int(np.prod(self._output.shape))
        self._launch("count_not_finite", values, stream, address, np.int32(values), self._found.address("counters"))
        tables = (self._held.address(name) for name in ("left", "right_part", "top", "lower_part"))
        shape = (np.int32(side) for side in (*self._output.shape[1:], *self._size))
        rows, columns = self._size
        self._launch("class_map", rows * columns, stream, address, *shape, *tables, self._found.address("map"))

    def _result(self) -> NDArray[np.uint8]:
        found: NDArray[np.uint8] = self._found.array("map").copy()
        return found


def mixing(given: int, wanted: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Of each resized row (or column): the first of the two that are mixed, and how much of the second.

    Source: OpenCV 5, cv2.resize with INTER_LINEAR: half-pixel centres; at the border the outermost one alone.
    """
    place = (np.arange(wanted) + 0.5) * (given / wanted) - 0.5
    first = np.floor(place).astype(np.int32)
    inside = (first >= 0) & (first < given - 1)
    return first.clip(0, given - 1), np.where(inside, place - first, 0).astype(np.float32)
