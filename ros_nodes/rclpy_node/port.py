"""The port of a ROS 2 node: subscriptions whose callbacks only hand over, and publishers."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup

from avcompress.spec import EngineError
from calibration.frame import Header, frame_of
from engines.session import one_line
from ros_nodes.connection import image_topics
from ros_nodes.core.diagnostics import Status
from ros_nodes.core.lifecycle import Step
from ros_nodes.core.port import Announcement, Deliver
from ros_nodes.core.result import Result
from ros_nodes.messages.outgoing import DIAGNOSTICS as DIAGNOSTICS_TYPE
from ros_nodes.messages.outgoing import (
    IMAGE,
    LABEL_INFO,
    MILLISECONDS,
    VISION_INFO,
    Message,
    diagnostics,
    label_info,
    milliseconds,
    picture_message,
    result_message,
    result_type,
    vision_info,
)
from ros_nodes.overlay import Drawn, Overlay
from ros_nodes.parameters import Told
from ros_nodes.qos import DIAGNOSTICS as DIAGNOSTICS_QOS
from ros_nodes.qos import LATCHED, Events, Qos
from ros_nodes.rclpy_node.library import RclpyLibrary, message_type
from ros_nodes.rclpy_node.quality import End, Listener, end_of, matches_all, overridable, profile
from ros_nodes.topics import DIAGNOSTICS, Topics, image_type

if TYPE_CHECKING:
    from rclpy.node import Node
    from rclpy.publisher import Publisher

_DEBUG = ("processing_time_ms", "pipeline_latency_ms")


class RclpyPort:
    """Takes images from topics and puts what the core says on others; see Port.

    Subscriptions and publishers are made and destroyed in the node's own callback group only, in which transitions are
    asked for: where the core stops unasked, on a thread of its own, `on_change` has to see to `settle` being called
    there.
    """

    def __init__(self, node: Node, told: Told, on_change: Callable[[Step], None]) -> None:
        self._node, self._told, self._on_change = node, told, on_change
        self._name = node.get_fully_qualified_name().strip("/")
        self._events = Events()
        self._listener = Listener(node, self._events)
        self._library = RclpyLibrary()
        self._topics = Topics(self._name, "detection")
        self._publishers: dict[str, Publisher] = {}
        self._subscriptions: list[tuple[str, Any]] = []
        self._ends: dict[str, End] = {}
        self._wanted = False
        self._overlay: Overlay | None = None
        self._publisher(DIAGNOSTICS, DIAGNOSTICS_TYPE, DIAGNOSTICS_QOS)

    # --- in

    def subscribe(self, cameras: tuple[str, ...], deliver: Deliver) -> None:
        """See Port."""
        self.settle()
        self._wanted = True
        for camera, topic in image_topics(self._told.connection, self._name, cameras).items():
            made = self._subscription(camera, topic, deliver)
            self._subscriptions.append((topic, made))
            self._ends[topic] = end_of(made, publishes=False)

    def _subscription(self, camera: str, topic: str, deliver: Deliver) -> Any:
        def receive(message: Message) -> None:
            frame = frame_of(message)
            if self._wanted and self._overlay is not None:
                self._overlay.keep(camera, frame)
            deliver(camera, frame)

        # A group of its own: images of one camera come in their order, and wait for nobody else.
        return self._listener.subscribed(
            topic,
            lambda events: self._node.create_subscription(
                message_type(image_type(topic)),
                topic,
                receive,
                profile(self._told.connection.camera_qos),
                callback_group=MutuallyExclusiveCallbackGroup(),
                event_callbacks=events,
                qos_overriding_options=overridable(),
            ),
        )

    def unsubscribe(self) -> None:
        """See Port; what comes until `settle` destroys the subscriptions, the core counts as `inactive`."""
        self._wanted = False

    def settle(self) -> None:
        """Destroy subscriptions that nobody wants any more; in the node's own callback group."""
        if not self._wanted:
            while self._subscriptions:
                topic, subscription = self._subscriptions.pop()
                self._ends.pop(topic, None)
                self._node.destroy_subscription(subscription)

    def close(self) -> None:
        """Destroy all that was made."""
        self.unsubscribe()
        self.settle()
        if self._overlay is not None:
            self._overlay.close()
        publishers, self._publishers = self._publishers, {}
        for publisher in publishers.values():
            self._node.destroy_publisher(publisher)

    # --- out

    def announce(self, announcement: Announcement) -> None:
        """See Port."""
        topics = self._topics = Topics(self._name, announcement.kind)
        self._prepare(announcement)
        stamp = self._stamp()
        self._publisher(topics.label_info, LABEL_INFO, LATCHED).publish(label_info(announcement, stamp, self._library))
        info = vision_info(announcement, stamp, topics.label_info, self._library)
        self._publisher(topics.vision_info, VISION_INFO, LATCHED).publish(info)

    def _prepare(self, announcement: Announcement) -> None:
        """Make what results go to before the first of them, which may come from another thread."""
        connection = self._told.connection
        for camera in self._told.settings.cameras:
            self._publisher(self._topics.results(camera), result_type(announcement.kind), connection.result_qos)
            if connection.overlay_every_ms:
                self._publisher(self._topics.overlay(camera), IMAGE, connection.result_qos)
        for name in _DEBUG:
            self._publisher(self._topics.debug(name), MILLISECONDS, connection.result_qos)
        if connection.overlay_every_ms:
            if self._overlay is None:
                self._overlay = Overlay(connection.overlay_every_ms, self._show, on_error=self._not_shown)
                self._overlay.start()
            self._overlay.classes = announcement.classes

    def publish(self, result: Result) -> None:
        """See Port."""
        self._send(self._topics.results(result.camera), result_message(result, self._library))

    def follow_up(self, result: Result, at_ns: int) -> None:
        """See Port: how long it took since it came, and since its stamp; a picture."""
        took_ns = at_ns - result.moments.arrived_ns
        latency_ns = self._now_ns() - (time.monotonic_ns() - at_ns) - result.header.stamp_ns
        for name, nanoseconds in zip(_DEBUG, (took_ns, latency_ns), strict=True):
            self._send(self._topics.debug(name), milliseconds(nanoseconds / 1e6, self._library))
        if self._overlay is not None:
            self._overlay.offer(result)

    def _show(self, drawn: Drawn) -> None:
        self._send(self._topics.overlay(drawn.camera), picture_message(drawn.header, drawn.picture, self._library))

    def _not_shown(self, camera: str, error: Exception) -> None:
        self._events.add(self._topics.overlay(camera), "not_shown", why=one_line(error))

    def report(self, statuses: tuple[Status, ...]) -> None:
        """See Port; the status `transport` is the port's own."""
        all_of_them = (*statuses, self._events.status(self._unmatched()))
        self._send(DIAGNOSTICS, diagnostics(all_of_them, self._name, self._stamp(), self._library))

    def _unmatched(self) -> list[str]:
        ends = {topic: self._ends.get(topic) for topic in self._events.topics("incompatible_qos")}
        return [topic for topic, end in ends.items() if end is not None and not matches_all(self._node, end)]

    def changed(self, step: Step) -> None:
        """See Port."""
        self._on_change(step)

    def _send(self, topic: str, message: Message) -> None:
        publisher = self._publishers.get(topic)
        if publisher is None:
            raise EngineError(f"{topic}: expected a publisher, got none; see what was said when the node was activated")
        publisher.publish(message)

    def _publisher(self, topic: str, kind: str, qos: Qos) -> Publisher:
        if topic not in self._publishers:
            made = self._publishers[topic] = self._listener.published(
                topic,
                lambda events: self._node.create_publisher(
                    message_type(kind),
                    topic,
                    profile(qos),
                    event_callbacks=events,
                    qos_overriding_options=overridable(),
                ),
            )
            self._ends[topic] = end_of(made, publishes=True)
        return self._publishers[topic]

    def _now_ns(self) -> int:
        now: int = self._node.get_clock().now().nanoseconds
        return now

    def _stamp(self) -> Header:
        now = self._now_ns()
        return Header(now // 1_000_000_000, now % 1_000_000_000)
