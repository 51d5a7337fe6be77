"""The port that writes what a node says into a bag, for `ros2 bag play`, Foxglove, or an evaluation."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from avcompress.files import make_folder, private_folder
from avcompress.spec import OutputError
from calibration.frame import Header
from ros_nodes.bag.library import RosbagsLibrary, encode, typestore
from ros_nodes.core.diagnostics import Status
from ros_nodes.core.lifecycle import Step
from ros_nodes.core.port import Announcement, Deliver
from ros_nodes.core.result import Result
from ros_nodes.messages.outgoing import Message, diagnostics, label_info, milliseconds, result_message, vision_info
from ros_nodes.topics import DIAGNOSTICS, Topics

if TYPE_CHECKING:
    from rosbags.interfaces import Connection
    from rosbags.rosbag2 import Writer

Storage = Literal["mcap", "sqlite3"]


class BagPort:
    """Writes results, announcements and diagnostics.

    `written_ns`: when each is said to have been written, as a bag's readers order messages by it.
    `on_result` is told of every result that was written, and how long it took, in nanoseconds.
    """

    def __init__(
        self, bag: NewBag, node: str, written_ns: Callable[[], int], on_result: Callable[[Result, int], None]
    ) -> None:
        self._bag, self._node, self._written_ns, self._on_result = bag, node, written_ns, on_result
        self._topics = Topics(node, "detection")
        self._library = RosbagsLibrary()

    def subscribe(self, cameras: tuple[str, ...], deliver: Deliver) -> None:
        """Nothing: who replays a bag delivers by himself."""

    def unsubscribe(self) -> None:
        """Nothing."""

    def changed(self, step: Step) -> None:
        """Nothing: the diagnostics say it."""

    def announce(self, announcement: Announcement) -> None:
        """Write LabelInfo and VisionInfo, which players latch."""
        topics = self._topics = Topics(self._node, announcement.kind)
        stamp = self._stamp()
        self._write(topics.label_info, label_info(announcement, stamp, self._library), latched=True)
        info = vision_info(announcement, stamp, topics.label_info, self._library)
        self._write(topics.vision_info, info, latched=True)

    def publish(self, result: Result) -> None:
        """Write a result."""
        self._write(self._topics.results(result.camera), result_message(result, self._library))

    def follow_up(self, result: Result, at_ns: int) -> None:
        """Write how long it took."""
        took_ns = at_ns - result.moments.arrived_ns
        self._on_result(result, took_ns)
        latency_ns = result.moments.arrived_ns + took_ns - result.header.stamp_ns
        for name, nanoseconds in (("processing_time_ms", took_ns), ("pipeline_latency_ms", latency_ns)):
            self._write(self._topics.debug(name), milliseconds(nanoseconds / 1e6, self._library))

    def report(self, statuses: tuple[Status, ...]) -> None:
        """Write a DiagnosticArray."""
        self._write(DIAGNOSTICS, diagnostics(statuses, self._node, self._stamp(), self._library))

    def _stamp(self) -> Header:
        now = self._written_ns()
        return Header(now // 1_000_000_000, now % 1_000_000_000)

    def _write(self, topic: str, message: Message, latched: bool = False) -> None:
        self._bag.write(topic, message.__msgtype__, self._written_ns(), encode(message), latched)


class NewBag:
    """A bag that is being written. A node survives whatever its port raises: so the first failure is kept."""

    def __init__(self, writer: Writer, path: Path) -> None:
        self._writer, self._path = writer, path
        self._connections: dict[str, Connection] = {}
        self._failure: OutputError | None = None

    def write(self, topic: str, kind: str, written_ns: int, data: bytes, latched: bool = False) -> None:
        """Add a message, encoded; raises OutputError, and from the first failure on for every message."""
        self.check()
        try:
            self._writer.write(self._connection(topic, kind, latched), written_ns, data)
        except Exception as error:  # of the file system, of SQLite, of rosbags: they share no base
            self._failure = _not_written(self._path, error)
            raise self._failure from error

    def check(self) -> None:
        """Raise OutputError where a message could not be written."""
        if self._failure is not None:
            raise self._failure

    def _connection(self, topic: str, kind: str, latched: bool) -> Connection:
        if topic not in self._connections:
            qos = _latched() if latched else ()
            self._connections[topic] = self._writer.add_connection(
                topic, kind, typestore=typestore(), offered_qos_profiles=qos
            )
        return self._connections[topic]


def _not_written(path: Path, error: Exception) -> OutputError:
    reason = getattr(error, "strerror", None) or error
    return OutputError(f"{path}: expected to write a bag, got: {reason}; free some space, or give another folder")


def _latched() -> tuple[Any, ...]:
    """Reliable and transient local: who comes later gets the last one, too."""
    from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime

    ever = QosTime(0x7FFFFFFF, 0xFFFFFFFF)
    return (
        Qos(
            QosHistory.KEEP_LAST,
            1,
            QosReliability.RELIABLE,
            QosDurability.TRANSIENT_LOCAL,
            ever,
            ever,
            QosLiveliness.AUTOMATIC,
            ever,
            False,
        ),
    )


@contextmanager
def new_bag(path: Path, storage: Storage = "mcap") -> Iterator[NewBag]:
    """Make a bag, which is there, and whole, when the block has ended without an error.

    Raises OutputError where something is there already, or a message could not be written, whatever came of that.
    """
    typestore()
    from rosbags.rosbag2 import StoragePlugin, Writer

    if path.exists():
        raise OutputError(f"{path}: expected a new folder, got one that is there; give another one")
    plugin = StoragePlugin.MCAP if storage == "mcap" else StoragePlugin.SQLITE3
    make_folder(path.parent)
    with private_folder(path.parent) as beside:
        try:
            # Version 8 is what Humble and Jazzy read; 9 came later.
            with Writer(beside / path.name, version=8, storage_plugin=plugin) as writer:
                yield from _watched(NewBag(writer, path))
            (beside / path.name).rename(path)
        except (OSError, sqlite3.Error) as error:
            raise _not_written(path, error) from error


def _watched(bag: NewBag) -> Iterator[NewBag]:
    try:
        yield bag
    except Exception:
        # That nothing could be written is why a node failed, not the other way round.
        bag.check()
        raise
    bag.check()
