"""The port of a vehicle without ROS: images from DDS topics, results to them, as a ROS 2 node has them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from avcompress.spec import DataError
from calibration.frame import Frame, Header, frame_of
from ros_nodes.bag.library import RosbagsLibrary, encode, typestore
from ros_nodes.core.clock import REAL, Clock
from ros_nodes.core.diagnostics import Status
from ros_nodes.core.lifecycle import State, Step
from ros_nodes.core.port import Announcement, Deliver
from ros_nodes.core.result import Result
from ros_nodes.core.settings import MS
from ros_nodes.messages import outgoing
from ros_nodes.messages.outgoing import Message
from ros_nodes.qos import DIAGNOSTICS, LATCHED, Events, Qos
from ros_nodes.topics import DIAGNOSTICS as DIAGNOSTICS_TOPIC
from ros_nodes.topics import Topics, image_type
from ros_nodes.wire.ear import Ear
from ros_nodes.wire.events import count_events, unmatched
from ros_nodes.wire.names import topic_name
from ros_nodes.wire.participant import Participant, Writer
from ros_nodes.wire.transitions import notices
from ros_nodes.wiring import Wiring

if TYPE_CHECKING:
    from cyclonedds.pub import DataWriter
    from cyclonedds.sub import DataReader

_DEBUG = ("processing_time_ms", "pipeline_latency_ms")
_TRANSITION_EVENT = "lifecycle_msgs/msg/TransitionEvent"


def read_frame(data: bytes, message: str) -> Frame:
    """The frame in an encoded message, whose pixels stay where they are; raises DataError for any other bytes."""
    from rosbags.serde import SerdeError

    try:
        # A view: of bytes, what comes after the header would be copied.
        return frame_of(typestore().deserialize_cdr(memoryview(data), message))
    except SerdeError as error:
        raise DataError(f"image: expected a {message}, got: {error}; mend the camera's driver") from error


class WirePort:
    """See ros_nodes.core.port.Port; `on_change` is told of every step of the lifecycle, too.

    Attributes:
        participant: its place on the network.
        events: of QoS; reports have them as the status `transport`.
    """

    def __init__(
        self,
        participant: Participant,
        wiring: Wiring,
        clock: Clock = REAL,
        on_change: Callable[[Step], None] | None = None,
    ) -> None:
        self._on_change = on_change
        self.participant, self._wiring, self._clock = participant, wiring, clock
        self._topics = Topics(wiring.node, "detection")
        self._library = RosbagsLibrary()
        self._writers: dict[str, Writer] = {}
        self._readers: dict[DataReader[Any], str] = {}
        self._ear: Ear | None = None
        self._state = State.UNCONFIGURED
        self.events = Events()
        self._writer(DIAGNOSTICS_TOPIC, outgoing.DIAGNOSTICS, DIAGNOSTICS)
        self._writer(f"/{wiring.node}/transition_event", _TRANSITION_EVENT, DIAGNOSTICS)

    # --- in

    def subscribe(self, cameras: tuple[str, ...], deliver: Deliver) -> None:
        """See Port."""
        hear = {}
        for camera in cameras:
            topic = self._wiring.topics[camera]
            message = image_type(topic)
            reader = self.participant.reader(topic_name(topic), message, self._wiring.camera_qos)
            self._readers[reader] = topic
            hear[reader] = partial(self._hear, deliver, camera, message)
        self._ear = Ear(self.participant, hear, self._not_heard, "cameras")

    def unsubscribe(self) -> None:
        """See Port."""
        ear, self._ear = self._ear, None
        if ear is not None:
            ear.close()
        self._count_events()
        self.participant.forget(*self._readers)
        self._readers.clear()

    def _hear(self, deliver: Deliver, camera: str, message: str, data: bytes) -> None:
        deliver(camera, read_frame(data, message))

    def _not_heard(self, topic: str, error: Exception) -> None:
        self.events.add(topic.removeprefix("rt"), "unreadable", why=str(error))

    # --- out

    def announce(self, announcement: Announcement) -> None:
        """See Port."""
        topics = self._topics = Topics(self._wiring.node, announcement.kind)
        for camera in self._wiring.topics:
            self._writer(topics.results(camera), outgoing.result_type(announcement.kind), self._wiring.result_qos)
        # Now, as the watchdog goes through the writers while results are published.
        for name in _DEBUG:
            self._writer(topics.debug(name), outgoing.MILLISECONDS, self._wiring.result_qos)
        stamp = self._stamp()
        self._send(topics.label_info, outgoing.label_info(announcement, stamp, self._library), LATCHED)
        info = outgoing.vision_info(announcement, stamp, topics.label_info, self._library)
        self._send(topics.vision_info, info, LATCHED)

    def publish(self, result: Result) -> None:
        """See Port."""
        message = outgoing.result_message(result, self._library)
        self._send(self._topics.results(result.camera), message, self._wiring.result_qos)

    def follow_up(self, result: Result, at_ns: int) -> None:
        """See Port: how long it took since it came, and since its stamp."""
        took_ns = at_ns - result.moments.arrived_ns
        since_ns = self._clock.monotonic_ns() - at_ns
        latency_ns = self._clock.stamp_ns() - since_ns - result.header.stamp_ns
        for name, nanoseconds in zip(_DEBUG, (took_ns, latency_ns), strict=True):
            message = outgoing.milliseconds(nanoseconds / MS, self._library)
            self._send(self._topics.debug(name), message, self._wiring.result_qos)

    def report(self, statuses: tuple[Status, ...]) -> None:
        """See Port; with what the transport has to say of itself."""
        self._count_events()
        said = (*statuses, self.events.status(unmatched(self.participant, *self._endpoints(), self.events)))
        message = outgoing.diagnostics(said, self._wiring.node, self._stamp(), self._library)
        self._send(DIAGNOSTICS_TOPIC, message, DIAGNOSTICS)

    def changed(self, step: Step) -> None:
        """See Port: as ROS 2 does, one event for the beginning of a transition and one for its end."""
        before, self._state = self._state, step.state
        topic = f"/{self._wiring.node}/transition_event"
        for notice in notices(before, step, self._library):
            self._send(topic, notice(self._clock.stamp_ns()), DIAGNOSTICS)
        if self._on_change is not None:
            self._on_change(step)

    def _count_events(self) -> None:
        count_events(*self._endpoints(), self.events)

    def _endpoints(self) -> tuple[dict[DataReader[Any], str], dict[str, DataWriter[Any]]]:
        # Copies: another thread may be announcing.
        return dict(self._readers), {topic: writer.dds for topic, writer in tuple(self._writers.items())}

    def _stamp(self) -> Header:
        now = self._clock.stamp_ns()
        return Header(now // 1_000_000_000, now % 1_000_000_000)

    def _send(self, topic: str, message: Message, qos: Qos) -> None:
        self._writer(topic, message.__msgtype__, qos).write(encode(message))

    def _writer(self, topic: str, message: str, qos: Qos) -> Writer:
        writer = self._writers.get(topic)
        if writer is None:
            writer = self._writers[topic] = self.participant.writer(topic_name(topic), message, qos)
        return writer
