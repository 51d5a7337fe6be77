"""What a camera sends, live or from a recording, as it comes; and the RGB image in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from avcompress.spec import Array, DataError
from calibration.decode import decode_draft_bytes, decode_image_bytes

Bytes = NDArray[np.uint8]

_ADVICE = "mend the camera's driver, or convert the images on their way"
_LARGEST_SIDE = 1 << 14


@dataclass(frozen=True)
class Header:
    """When and where an image was taken, as its camera says; handed on untouched."""

    sec: int = 0
    nanosec: int = 0
    frame_id: str = ""

    @property
    def stamp_ns(self) -> int:
        """Nanoseconds of the camera's clock."""
        return self.sec * 1_000_000_000 + self.nanosec


@dataclass(frozen=True, eq=False)
class RawImage:
    """Pixels as sensor_msgs/Image carries them.

    Attributes:
        height: rows of the image, whatever planes the encoding has.
        step: bytes from one row to the next.
        data: (bytes,) uint8.
    """

    header: Header
    height: int
    width: int
    encoding: str
    step: int
    data: Bytes


@dataclass(frozen=True, eq=False)
class CompressedImage:
    """A JPEG or PNG file as sensor_msgs/CompressedImage carries it; `data`: (bytes,) uint8."""

    header: Header
    format: str
    data: Bytes


Frame = RawImage | CompressedImage


class _Encoding(NamedTuple):
    """How an encoding lies in memory, and becomes RGB.

    Attributes:
        row_bytes: of a pixel in a row.
        thirds: rows of the buffer in two rows of the image: 2, or 3 where half as many rows of colour follow.
        even: whether width and height must be even: (height, width).
        shape: of a pixel in the buffer; () for one byte.
        to_rgb: from the buffer's rows to (H, W, 3).
    """

    row_bytes: int
    thirds: int
    even: tuple[bool, bool]
    shape: tuple[int, ...]
    to_rgb: Callable[[Array], Array]


def _by_opencv(code: int) -> Callable[[Array], Array]:
    return lambda pixels: np.asarray(cv2.cvtColor(pixels, code))


def _as_it_is(pixels: Array) -> Array:
    return pixels


_FREE = (False, False)
_UYVY = _Encoding(2, 2, (False, True), (2,), _by_opencv(cv2.COLOR_YUV2RGB_UYVY))
_YUYV = _Encoding(2, 2, (False, True), (2,), _by_opencv(cv2.COLOR_YUV2RGB_YUY2))

# YUV is BT.601 of limited range, as OpenCV and image_transport take it.
_ENCODINGS = {
    "rgb8": _Encoding(3, 2, _FREE, (3,), _as_it_is),
    "bgr8": _Encoding(3, 2, _FREE, (3,), _by_opencv(cv2.COLOR_BGR2RGB)),
    "mono8": _Encoding(1, 2, _FREE, (), _by_opencv(cv2.COLOR_GRAY2RGB)),
    "nv12": _Encoding(1, 3, (True, True), (), _by_opencv(cv2.COLOR_YUV2RGB_NV12)),
    "yuv422": _UYVY,
    "uyvy": _UYVY,
    "yuv422_yuy2": _YUYV,
    "yuyv": _YUYV,
}
ENCODINGS = tuple(_ENCODINGS)
"""The encodings of RawImage that are read. Source: sensor_msgs/image_encodings.hpp."""


def check_frame(frame: Frame) -> None:
    """Raise DataError for a frame that cannot be read, as far as its sizes tell; a microsecond when it can."""
    match frame:
        case CompressedImage():
            if not frame.data.size:
                raise DataError(f"image: expected a JPEG or PNG file, got no bytes; {_ADVICE}")
        case RawImage():
            _check_raw(frame, _encoding(frame))


def _encoding(frame: RawImage) -> _Encoding:
    encoding = _ENCODINGS.get(frame.encoding.lower())
    if encoding is None:
        raise DataError(f"image: expected one of {', '.join(ENCODINGS)}, got {frame.encoding[:40]!r}; {_ADVICE}")
    return encoding


def _check_raw(frame: RawImage, encoding: _Encoding) -> None:
    size = f"{frame.width}x{frame.height} {frame.encoding}"
    if not (0 < frame.height <= _LARGEST_SIDE and 0 < frame.width <= _LARGEST_SIDE):
        raise DataError(f"image: expected sides of 1 to {_LARGEST_SIDE} pixels, got {size}; {_ADVICE}")
    odd = (frame.height % 2 == 1, frame.width % 2 == 1)
    if any(must and is_odd for must, is_odd in zip(encoding.even, odd, strict=True)):
        raise DataError(f"image: expected even sides for {frame.encoding}, got {size}; {_ADVICE}")
    if frame.step < frame.width * encoding.row_bytes:
        raise DataError(
            f"image: expected rows of at least {frame.width * encoding.row_bytes} bytes for {size}, got {frame.step}; "
            f"{_ADVICE}"
        )
    wanted = frame.step * frame.height * encoding.thirds // 2
    # Some drivers end the last row where its pixels end, others pad the whole.
    least = wanted - frame.step + frame.width * encoding.row_bytes
    if frame.data.size < least:
        raise DataError(f"image: expected {wanted} bytes for {size}, got {frame.data.size}; {_ADVICE}")


def to_rgb(frame: Frame) -> Array:
    """The image: (H, W, 3) uint8, RGB; a view of the frame's data where it lies there so already.

    Raises DataError for a frame that cannot be read whole.
    """
    match frame:
        case CompressedImage():
            return decode_image_bytes(frame.data.tobytes(), "image", _ADVICE)
        case RawImage():
            encoding = _encoding(frame)
            _check_raw(frame, encoding)
            return encoding.to_rgb(_pixels(frame, encoding))


class Thumbnail(NamedTuple):
    """A frame at a glance.

    Attributes:
        pixels: (side, side, 3) uint8, RGB: the whole image, whatever its shape, each pixel the mean of what it covers.
        size: height, width of the image.
    """

    pixels: Array
    size: tuple[int, int]


def to_thumbnail(frame: Frame, side: int) -> Thumbnail:
    """The image as a square; JPEG files are decoded no larger than it takes. Raises what to_rgb raises."""
    match frame:
        case CompressedImage():
            image, (width, height) = decode_draft_bytes(frame.data.tobytes(), "image", _ADVICE, (side * 2, side * 2))
        case RawImage():
            image, height, width = to_rgb(frame), frame.height, frame.width
    return Thumbnail(np.asarray(cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)), (height, width))


def _pixels(frame: RawImage, encoding: _Encoding) -> Array:
    """The rows of the buffer without what fills them up: (rows, width, ...); no larger than the frame's data."""
    rows, used = frame.height * encoding.thirds // 2, frame.width * encoding.row_bytes
    # A row begins at every step, and needs no more than its pixels: nothing is made up where the last one ends there.
    begun = sliding_window_view(frame.data, used)[:: frame.step][:rows]
    return np.ascontiguousarray(begun).reshape(rows, frame.width, *encoding.shape)


# --- from messages


def frame_of(message: Any) -> Frame:
    """The frame in a sensor_msgs/Image or CompressedImage of any library that names their fields as ROS does.

    The pixels are the message's own, not copied where its library holds them in one piece.
    """
    stamp = message.header.stamp
    header = Header(int(stamp.sec), int(stamp.nanosec), str(message.header.frame_id))
    if hasattr(message, "format"):
        return CompressedImage(header, str(message.format), _octets(message.data))
    return RawImage(
        header, int(message.height), int(message.width), str(message.encoding), int(message.step), _octets(message.data)
    )


def _octets(data: Any) -> Bytes:
    # A list of ints, which has no buffer, is what some libraries make of uint8[].
    return np.array(data, np.uint8) if isinstance(data, list) else np.frombuffer(data, np.uint8)
