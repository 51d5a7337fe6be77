"""Frames of cameras from a rosbag2, MCAP or SQLite, in the order of their recording; nothing is decoded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from avcompress.spec import DataError, MissingError
from calibration.frame import Frame, frame_of

if TYPE_CHECKING:
    from rosbags.highlevel import AnyReader
    from rosbags.interfaces import Connection

IMAGES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
_INSTALL = 'pip install "avcompress[ros]"'


class Recorded(NamedTuple):
    """One frame of a recording; `recorded_ns`: when it was written, by the recorder's clock."""

    camera: str
    frame: Frame
    recorded_ns: int


class BagFrames:
    """The frames of an open bag: `cameras` maps each camera's name to its topic."""

    def __init__(self, reader: AnyReader, cameras: Mapping[str, str], path: Path) -> None:
        self._reader, self._path = reader, path
        self.cameras = dict(cameras)
        found = {topic for topic, kinds in _topics(reader).items() if kinds & set(IMAGES)}
        missing = sorted(set(cameras.values()) - found)
        if missing:
            got = ", ".join(sorted(found)) or "no topic"
            raise DataError(f"{path}: expected images on {', '.join(missing)}, got them on {got}; name one of these")
        names = {topic: camera for camera, topic in cameras.items()}
        self._names = {c.id: names[c.topic] for c in reader.connections if c.topic in names and c.msgtype in IMAGES}

    def _connections(self) -> list[Connection]:
        return [connection for connection in self._reader.connections if connection.id in self._names]

    def __len__(self) -> int:
        return sum(connection.msgcount for connection in self._connections())

    @property
    def span_ns(self) -> tuple[int, int]:
        """When the recording began and ended, whatever was recorded then, by the recorder's clock; empty: 0, 0."""
        begun, ended = self._reader.start_time, self._reader.end_time - 1
        return (begun, ended) if begun <= ended else (0, 0)

    def __iter__(self) -> Iterator[Recorded]:
        """Read lazily; raises DataError for what is damaged."""
        return self.between(None, None)

    def between(self, start_ns: int | None, stop_ns: int | None) -> Iterator[Recorded]:
        """Those recorded from `start_ns` on and before `stop_ns`; reads lazily, and raises as going through all."""
        where = str(self._path)
        try:
            # Without a connection rosbags would read them all.
            connections = self._connections()
            found = self._reader.messages(connections, start_ns, stop_ns) if connections else ()
            for connection, stamp, raw in found:
                where = f"{self._path}, {connection.topic} at {stamp} ns"
                message = self._reader.deserialize(raw, connection.msgtype)
                yield Recorded(self._names[connection.id], frame_of(message), stamp)
        except Exception as error:  # damaged bags make storages and decoders raise nearly anything
            raise DataError(
                f"{where}: expected a bag that is whole, got: {error}; repair it (ros2 bag reindex)"
            ) from error


def _topics(reader: AnyReader) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for connection in reader.connections:
        found.setdefault(connection.topic, set()).add(connection.msgtype)
    return found


def image_topics(path: Path) -> tuple[str, ...]:
    """The topics of a bag that carry images, sorted; raises what open_bag raises."""
    with _open(path) as reader:
        return tuple(sorted(topic for topic, kinds in _topics(reader).items() if kinds & set(IMAGES)))


@contextmanager
def open_bag(path: Path, cameras: Mapping[str, str]) -> Iterator[BagFrames]:
    """Open a bag's image topics.

    Args:
        path: the folder with metadata.yaml, or a single .mcap file.
        cameras: name of a camera -> its topic.

    Raises DataError for what is no bag, and for topics without images; MissingError without `rosbags`.
    """
    with _open(path) as reader:
        yield BagFrames(reader, cameras, path)


@contextmanager
def _open(path: Path) -> Iterator[AnyReader]:
    try:
        from rosbags.highlevel import AnyReader
        from rosbags.typesys import Stores, get_typestore
    except ImportError as error:
        raise MissingError(f"bag: expected the package rosbags, got nothing of that name; {_INSTALL}") from error
    if not path.exists():
        raise DataError(f"{path}: expected a rosbag2, MCAP or SQLite, got nothing of that name; check the path")
    try:
        # What a bag says of its own types comes first; older ones say nothing.
        reader = AnyReader([path], default_typestore=get_typestore(Stores.ROS2_HUMBLE))
        reader.open()
    except Exception as error:  # of the storage, of YAML, of the file system: they share no base
        raise DataError(f"{path}: expected a rosbag2, MCAP or SQLite, got: {error}; check the path") from error
    try:
        yield reader
    finally:
        reader.close()
