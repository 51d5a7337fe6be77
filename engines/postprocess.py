"""From a network's raw output to boxes or to a class map; NumPy only, exact, vectorised.

Boxes are xyxy in pixels of the network's input, not of the image.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from typing_extensions import assert_never

from avcompress.recipe import Detection, Segmentation, Task
from avcompress.spec import Array, EngineError
from engines.exact_exp import exact_exp
from engines.nms import Floats, Indices, Labels, keep_best

Size = tuple[int, int]
"""Height, width."""
ClassMap = NDArray[np.uint8] | NDArray[np.uint16]
"""(H, W), the class of each pixel; uint16 where there are more than 256."""

_EXP_MAX = 80.0  # e^80 strides still fit in float32
_FAR = 1e6  # pixels: boxes are cut there, so that no area overflows
_CLASSES_OF_8_BITS, _CLASSES = 1 << 8, 1 << 16


@dataclass(frozen=True)
class Detections:
    """Boxes (N, 4) float32 xyxy in network pixels, scores (N,) float32, labels (N,) int64."""

    xyxy: Floats
    scores: Floats
    labels: Labels


class Finished(dict[str, Array]):
    """Outputs that were post-processed on the device already; `found` is what `postprocess` returns of them."""

    def __init__(self, found: Detections | NDArray[np.uint8]) -> None:
        super().__init__({"class_map": found} if isinstance(found, np.ndarray) else vars(found))
        self.found = found


class Layout(NamedTuple):
    """A detector's raw output, cut into rows: one row an anchor."""

    boxes: Floats
    objectness: Floats | None
    classes: Floats
    logits: bool


def postprocess(outputs: Mapping[str, Array], task: Task, input_size: Size) -> Detections | ClassMap:
    """Boxes after NMS for a detector, a class map (H, W) for a segmenter."""
    if isinstance(outputs, Finished):
        return outputs.found
    match task:
        case Detection():
            return nms(decode(outputs, task, input_size), task.nms_iou, task.max_detections)
        case Segmentation():
            return segment(outputs, input_size)
        case _:
            assert_never(task)


# --- detection


def decode(outputs: Mapping[str, Array], settings: Detection, input_size: Size) -> Detections:
    """Turn a detector's raw output into boxes at or above the score threshold, one label an anchor: the best class.

    Raises EngineError when the output's shape does not fit the decoder, or a value is not finite.

    Source: YOLOX yolox/models/yolo_head.py and yolox/utils/boxes.py.
    """
    name, output = _single(outputs)
    layout = _layout(name, output, settings, input_size)
    labels = layout.classes.argmax(axis=1)
    scores = layout.classes[np.arange(len(labels)), labels]
    if layout.logits:
        scores = _sigmoid(scores)
    if layout.objectness is not None:
        scores = scores * layout.objectness
    keep = np.flatnonzero(scores >= np.float32(settings.score_threshold))
    xyxy = _xyxy(layout.boxes[keep], keep, settings, input_size)
    return Detections(xyxy, scores[keep], labels[keep].astype(np.int64))


def check_output(name: str, shape: tuple[int, ...], task: Task, input_size: Size, classes: int) -> None:
    """Hold a network's output, before it is ever run, against the recipe's decoder and its number of classes.

    A segmenter may have more outputs than classes, a void or background one at the end; a detector may not.
    Raises EngineError; a dimension of -1 is not known, and not checked.
    """
    if min(shape, default=-1) < 0:
        return
    check_shape(name, shape, task, input_size)
    match task:
        case Detection():
            width = shape[1] if task.decode == "yolov8" else shape[2]
            found, fits = width - _first_class(task), "exactly"
        case Segmentation():
            found, fits = shape[1], "at least"
        case _:
            assert_never(task)
    if found < classes or (fits == "exactly" and found != classes):
        raise EngineError(
            f"output {name!r}: expected {fits} the {classes} classes of the recipe or its labels, got {found}; "
            "list the network's classes, in its order, as `classes`"
        )


def check_shape(name: str, shape: tuple[int, ...], task: Task, input_size: Size) -> None:
    """Raise EngineError when an output's shape does not fit the decoder."""
    match task:
        case Detection():
            _check_layout(name, shape, task, input_size)
        case Segmentation():
            _check_logits(name, shape, input_size)
        case _:
            assert_never(task)


def _first_class(settings: Detection) -> int:
    """The column where the class scores begin: after the box and, where there is one, the objectness."""
    return 5 if settings.decode in {"yolox", "yolov5"} else 4


def _check_layout(name: str, shape: tuple[int, ...], settings: Detection, input_size: Size) -> None:
    count = sum(_cell_count(input_size, stride) for stride in settings.strides)
    first = _first_class(settings)
    if len(shape) != 3 or not _fits(shape, settings.decode, count, first):
        wanted = f"4 + classes, {count}" if settings.decode == "yolov8" else f"{count}, {first} + classes"
        raise EngineError(
            f"output {name!r}: expected (1, {wanted}) for decode: {settings.decode}, strides {settings.strides} and "
            f"input {input_size[0]}x{input_size[1]}, got {shape}; set task.decode and task.strides to match, "
            "and name the tensor before NMS as model.output where the graph has NMS in it"
        )


def _layout(name: str, output: Floats, settings: Detection, input_size: Size) -> Layout:
    """Check the output's shape, and cut it into boxes, objectness and classes."""
    _check_layout(name, output.shape, settings, input_size)
    first = _first_class(settings)
    # Rows in one piece: the best class is searched along them.
    rows = cv2.transpose(output[0]) if settings.decode == "yolov8" else output[0]
    objectness = rows[:, 4] if first == 5 else None
    return Layout(rows[:, :4], objectness, rows[:, first:], logits=settings.decode == "ltrb")


def _fits(shape: tuple[int, ...], decode: str, cells: int, first: int) -> bool:
    batch, anchors, width = (shape[0], shape[2], shape[1]) if decode == "yolov8" else shape
    # A yolov5 head has several anchors a cell.
    counted = anchors > 0 and anchors % cells == 0 if decode == "yolov5" else anchors == cells
    return batch == 1 and counted and width > first


def _cell_count(size: Size, stride: int) -> int:
    return -(-size[0] // stride) * -(-size[1] // stride)


def _xyxy(boxes: Floats, anchors: Indices, settings: Detection, input_size: Size) -> Floats:
    """Boxes of the given anchors as xyxy pixels."""
    match settings.decode:
        case "yolox":
            corner, step = cells(anchors, settings.strides, input_size)
            center = (boxes[:, :2] + corner) * step
            half = exact_exp(np.minimum(boxes[:, 2:], _EXP_MAX)) * step / np.float32(2)
            low, high = center - half, center + half
        case "ltrb":
            corner, step = cells(anchors, settings.strides, input_size)
            center = (corner + np.float32(0.5)) * step
            low, high = center - boxes[:, :2] * step, center + boxes[:, 2:] * step
        case "yolov5" | "yolov8":
            half = boxes[:, 2:] / np.float32(2)
            low, high = boxes[:, :2] - half, boxes[:, :2] + half
        case _:
            assert_never(settings.decode)
    xyxy: Floats = np.concatenate([low, high], axis=1).clip(-_FAR, _FAR)
    return xyxy


def cells(anchors: Indices, strides: Iterable[int], size: Size) -> tuple[Floats, Floats]:
    """The cell of each anchor, row by row, stride after stride: its x, y in strides, (N, 2), and its stride, (N, 1)."""
    steps = np.array(tuple(strides))
    widths = -(-size[1] // steps)
    ends = np.cumsum(widths * -(-size[0] // steps))
    level = np.searchsorted(ends, anchors, side="right")
    y, x = np.divmod(anchors - np.concatenate([[0], ends])[level], widths[level])
    return np.stack([x, y], axis=1).astype(np.float32), steps[level, None].astype(np.float32)


def _sigmoid(x: Floats) -> Floats:
    decay = exact_exp(-np.abs(x))  # never overflows
    one = np.float32(1)
    y: Floats = np.where(x >= 0, one, decay) / (one + decay)
    return y


def nms(detections: Detections, iou: float, max_detections: int) -> Detections:
    """Greedy non-maximum suppression within each class; what is kept comes in descending score, ties in given order.

    A box goes when its overlap with a kept box of its class is above `iou`. The first `max_detections` are kept.
    """
    best = keep_best(detections.xyxy, detections.scores, detections.labels, iou, max_detections)
    return Detections(detections.xyxy[best], detections.scores[best], detections.labels[best])


# --- segmentation


def segment(outputs: Mapping[str, Array], input_size: Size) -> ClassMap:
    """The class of every pixel of the network's input, (H, W): argmax of (1, C, h, w) logits, ties to the lower class.

    Smaller logits are first resized bilinearly, half-pixel centres. Raises EngineError for another shape, or for
    values that are not finite.
    """
    name, output = _single(outputs)
    height, width = input_size
    _check_logits(name, output.shape, input_size)
    resize = output.shape[2:] != (height, width)
    best = np.full((height, width), -np.inf, np.float32)
    labels: ClassMap = np.zeros((height, width), np.uint8 if len(output[0]) <= _CLASSES_OF_8_BITS else np.uint16)
    # Channel by channel: contiguous, and no resized copy of all of them.
    for index, plane in enumerate(output[0]):
        logits = cv2.resize(plane, (width, height), interpolation=cv2.INTER_LINEAR) if resize else plane
        # The label so far is a smaller number, so a maximum sets it: no branch, unlike a masked copy.
        above = np.greater(logits, best).view(np.uint8)
        np.maximum(labels, np.multiply(above, index, dtype=labels.dtype), out=labels)
        np.maximum(best, logits, out=best)
    return labels


def _check_logits(name: str, shape: tuple[int, ...], size: Size) -> None:
    fits = len(shape) == 4 and shape[0] == 1 and 2 <= shape[1] <= _CLASSES
    if not fits or not (0 < shape[2] <= size[0] and 0 < shape[3] <= size[1]):
        raise EngineError(
            f"output {name!r}: expected logits (1, 2 to {_CLASSES} classes, {size[0]} at most, {size[1]} at most), got "
            f"{shape}; set preprocess.size and task.kind to the network's, and export it without its argmax"
        )


def _shapes(outputs: Mapping[str, Array]) -> str:
    return ", ".join(f"{name!r} {tuple(output.shape)}" for name, output in outputs.items())


def _single(outputs: Mapping[str, Array]) -> tuple[str, Floats]:
    """The network's only output, as finite float32."""
    if len(outputs) != 1:
        raise EngineError(
            f"outputs: expected one, got {_shapes(outputs) or 'none'}; set model.output to the one to decode"
        )
    name, output = next(iter(outputs.items()))
    values: Floats = np.asarray(output, dtype=np.float32)
    finite = np.isfinite(values)
    if not finite.all():
        raise not_finite(name, values.size - int(np.count_nonzero(finite)), values.size)
    return name, values


def not_finite(name: str, bad: int, values: int) -> EngineError:
    """The error of an output that holds NaN or infinity."""
    return EngineError(
        f"output {name!r}: expected finite values, got {bad} of {values} NaN or infinite; "
        "check the network and its scales"
    )
