"""From what a node says to ROS messages: of whatever library, which brings its own classes of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from calibration.frame import CompressedImage, Frame, Header, RawImage
from engines.postprocess import ClassMap, Detections
from ros_nodes.core.diagnostics import Status
from ros_nodes.core.port import Announcement
from ros_nodes.core.result import Result

Message = Any
"""An object of a library's own class."""

DETECTIONS = "vision_msgs/msg/Detection2DArray"
IMAGE = "sensor_msgs/msg/Image"
COMPRESSED = "sensor_msgs/msg/CompressedImage"
LABEL_INFO = "vision_msgs/msg/LabelInfo"
VISION_INFO = "vision_msgs/msg/VisionInfo"
DIAGNOSTICS = "diagnostic_msgs/msg/DiagnosticArray"
MILLISECONDS = "std_msgs/msg/Float64"


class Library(Protocol):
    """How a library makes messages."""

    def make(self, name: str, /, **fields: object) -> Message:
        """A message by its full name, such as std_msgs/msg/Header; every field is given."""
        ...

    def octets(self, data: NDArray[np.uint8]) -> object:
        """A uint8[] field of it, from a flat array."""
        ...

    def octet(self, value: int) -> object:
        """A byte field of it."""
        ...


def result_type(kind: str) -> str:
    """The message that a detector's, or a segmenter's, results are."""
    return DETECTIONS if kind == "detection" else IMAGE


def result_message(result: Result, library: Library) -> Message:
    """Boxes as Detection2DArray, empty ones too; a mask as Image, mono8 or mono16. Each under the source's header."""
    if isinstance(result.prediction, Detections):
        return _detections(result.header, result.prediction, library)
    return _mask(result.header, result.prediction, library)


def header_message(header: Header, library: Library) -> Message:
    """A std_msgs/Header."""
    stamp = library.make("builtin_interfaces/msg/Time", sec=header.sec, nanosec=header.nanosec)
    return library.make("std_msgs/msg/Header", stamp=stamp, frame_id=header.frame_id)


def _detections(source: Header, found: Detections, library: Library) -> Message:
    make, header = library.make, header_message(source, library)
    # No pose is estimated: as the message's own defaults say it.
    pose = make(
        "geometry_msgs/msg/PoseWithCovariance",
        pose=make(
            "geometry_msgs/msg/Pose",
            position=make("geometry_msgs/msg/Point", x=0.0, y=0.0, z=0.0),
            orientation=make("geometry_msgs/msg/Quaternion", x=0.0, y=0.0, z=0.0, w=1.0),
        ),
        covariance=np.zeros(36),
    )
    low, high = found.xyxy[:, :2].astype(np.float64), found.xyxy[:, 2:].astype(np.float64)
    rows = zip(
        ((low + high) / 2).tolist(), (high - low).tolist(), found.labels.tolist(), found.scores.tolist(), strict=True
    )
    detections = [
        make(
            "vision_msgs/msg/Detection2D",
            header=header,
            results=[
                make(
                    "vision_msgs/msg/ObjectHypothesisWithPose",
                    hypothesis=make("vision_msgs/msg/ObjectHypothesis", class_id=str(label), score=score),
                    pose=pose,
                )
            ],
            bbox=_box(center, size, library),
            id="",
        )
        for center, size, label, score in rows
    ]
    return make(DETECTIONS, header=header, detections=detections)


def _box(center: list[float], size: list[float], library: Library) -> Message:
    position = library.make("vision_msgs/msg/Point2D", x=center[0], y=center[1])
    pose = library.make("vision_msgs/msg/Pose2D", position=position, theta=0.0)
    return library.make("vision_msgs/msg/BoundingBox2D", center=pose, size_x=size[0], size_y=size[1])


def _mask(source: Header, mask: ClassMap, library: Library) -> Message:
    return _image(source, f"mono{8 * mask.itemsize}", mask, library)


def picture_message(source: Header, picture: NDArray[np.uint8], library: Library) -> Message:
    """An Image, rgb8, of a picture for people: (H, W, 3) RGB."""
    return _image(source, "rgb8", picture, library)


def _image(source: Header, encoding: str, pixels: ClassMap, library: Library) -> Message:
    height, width = pixels.shape[:2]
    data = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("<")).reshape(-1).view(np.uint8)
    return frame_message(RawImage(source, height, width, encoding, pixels[0].nbytes, data), library)


def frame_message(frame: Frame, library: Library) -> Message:
    """An Image, or a CompressedImage, as a camera's driver sends it."""
    header, data = header_message(frame.header, library), library.octets(frame.data)
    if isinstance(frame, CompressedImage):
        return library.make(COMPRESSED, header=header, format=frame.format, data=data)
    return library.make(
        IMAGE,
        header=header,
        height=frame.height,
        width=frame.width,
        encoding=frame.encoding,
        is_bigendian=0,
        step=frame.step,
        data=data,
    )


def label_info(news: Announcement, stamp: Header, library: Library) -> Message:
    """The name of every class_id, which in results is the number of the class; LabelInfo."""
    classes = [
        library.make("vision_msgs/msg/VisionClass", class_id=index, class_name=name)
        for index, name in enumerate(news.classes)
    ]
    return library.make(
        LABEL_INFO,
        header=header_message(stamp, library),
        class_map=classes,
        threshold=float(np.float32(news.threshold)),
    )


def vision_info(news: Announcement, stamp: Header, labels: str, library: Library) -> Message:
    """Which network answers, in which revision, and the topic of its `labels`; VisionInfo."""
    return library.make(
        VISION_INFO,
        header=header_message(stamp, library),
        method=news.name,
        database_location=labels,
        database_version=news.revision,
    )


def diagnostics(statuses: Iterable[Status], node: str, stamp: Header, library: Library) -> Message:
    """A DiagnosticArray; statuses are named `NODE: NAME`, as ROS's own tools do."""
    return library.make(
        DIAGNOSTICS,
        header=header_message(stamp, library),
        status=[
            library.make(
                "diagnostic_msgs/msg/DiagnosticStatus",
                level=library.octet(int(status.level)),
                name=f"{node}: {status.name}",
                message=status.message,
                hardware_id=node,
                values=[
                    library.make("diagnostic_msgs/msg/KeyValue", key=key, value=value)
                    for key, value in status.values.items()
                ],
            )
            for status in statuses
        ],
    )


def milliseconds(value: float, library: Library) -> Message:
    """A Float64."""
    return library.make(MILLISECONDS, data=float(value))
