"""The port that writes what a node says into a bag, for `ros2 bag play`, Foxglove, or an evaluation."""

from __future__ import annotations

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
        self, writer: Writer, node: str, written_ns: Callable[[], int], on_result: Callable[[Result, int], None]
    ) -> None:
        self._writer, self._node, self._written_ns, self._on_result = writer, node, written_ns, on_result
        self._topics = Topics(node, "detection")
        self._library = RosbagsLibrary()
        self._connections: dict[str, Connection] = {}

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
        connection = self._connections.get(topic)
        if connection is None:
            qos = _latched() if latched else ()
            connection = self._connections[topic] = self._writer.add_connection(
                topic, message.__msgtype__, typestore=typestore(), offered_qos_profiles=qos
            )
        self._writer.write(connection, self._written_ns(), encode(message))


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
def new_bag(path: Path, storage: Storage = "mcap") -> Iterator[Writer]:
    """Make a bag, which is there, and whole, when the block has ended without an error.

    Raises OutputError where something is there already, or the disk is full.
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
                yield writer
            (beside / path.name).rename(path)
        except OSError as error:
            raise OutputError(f"{path}: expected to write a bag, got: {error.strerror}; free some space") from error
