"""Quality of service in rclpy's words, and what it tells of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from rclpy.duration import Duration
from rclpy.qos import (
    QoSCompatibility,
    QoSDurabilityPolicy,
    QoSHistoryPolicy,
    QoSPolicyKind,
    QoSProfile,
    QoSReliabilityPolicy,
    qos_check_compatible,
    qos_policy_name_from_kind,
)
from rclpy.qos_overriding_options import QoSOverridingOptions

from ros_nodes.core.settings import MS
from ros_nodes.qos import Event, Events, Qos, Wanted

try:
    from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks, UnsupportedEventTypeError
except ImportError:  # Humble
    from rclpy.qos_event import PublisherEventCallbacks, SubscriptionEventCallbacks, UnsupportedEventTypeError

if TYPE_CHECKING:
    from rclpy.node import Node

Made = TypeVar("Made")


def profile(qos: Wanted) -> QoSProfile:
    """What rclpy takes."""
    return QoSProfile(
        history=QoSHistoryPolicy.KEEP_LAST,
        depth=qos.depth,
        reliability=QoSReliabilityPolicy[qos.reliability.upper()],
        durability=QoSDurabilityPolicy[qos.durability.upper()],
        deadline=_duration(qos.deadline_ms),
        lifespan=_duration(qos.lifespan_ms if isinstance(qos, Qos) else None),
    )


def _duration(ms: float | None) -> Duration:
    # 0 is rmw's word for `not said`, which is for ever.
    return Duration(nanoseconds=0 if ms is None else round(ms * MS))


def overridable() -> QoSOverridingOptions:
    """Whoever starts the node may set any policy: `qos_overrides./front/image_raw.subscription.reliability`."""
    return QoSOverridingOptions(
        (
            QoSPolicyKind.HISTORY,
            QoSPolicyKind.DEPTH,
            QoSPolicyKind.RELIABILITY,
            QoSPolicyKind.DURABILITY,
            QoSPolicyKind.DEADLINE,
            QoSPolicyKind.LIFESPAN,
            QoSPolicyKind.LIVELINESS,
            QoSPolicyKind.LIVELINESS_LEASE_DURATION,
        )
    )


class End(NamedTuple):
    """Our end of a topic: the name by which the middleware knows it, and what it was made with, overrides included."""

    name: str
    quality: QoSProfile
    publishes: bool


def end_of(made: Any, publishes: bool) -> End:
    """That of a publisher or a subscription."""
    return End(made.topic_name, made.qos_profile, publishes)


def matches_all(node: Node, end: End) -> bool:
    """Whether none of the other ends that are there at this moment is known not to match ours."""
    if end.publishes:
        pairs = [(end.quality, other.qos_profile) for other in node.get_subscriptions_info_by_topic(end.name)]
    else:
        pairs = [(other.qos_profile, end.quality) for other in node.get_publishers_info_by_topic(end.name)]
    return all(qos_check_compatible(*pair)[0] != QoSCompatibility.ERROR for pair in pairs)


class Listener:
    """Counts and logs the events of topics."""

    def __init__(self, node: Node, events: Events) -> None:
        self._logger, self._events = node.get_logger(), events

    def subscribed(self, topic: str, create: Callable[[SubscriptionEventCallbacks], Made]) -> Made:
        """Create a subscription with as many event callbacks as the middleware has."""
        known = {
            "deadline": self._counted(topic, "deadline_missed"),
            "incompatible_qos": self._incompatible(topic),
            "message_lost": self._counted(topic, "message_lost"),
            "liveliness": self._liveliness(topic),
        }
        return _with_events(create, SubscriptionEventCallbacks, known)

    def published(self, topic: str, create: Callable[[PublisherEventCallbacks], Made]) -> Made:
        """Create a publisher with as many event callbacks as the middleware has."""
        known = {
            "deadline": self._counted(topic, "deadline_missed"),
            "incompatible_qos": self._incompatible(topic),
            "liveliness": self._counted(topic, "liveliness_lost"),
        }
        return _with_events(create, PublisherEventCallbacks, known)

    def _counted(self, topic: str, event: Event) -> Callable[[Any], None]:
        def heard(info: Any) -> None:
            self._add(topic, event, info.total_count_change)

        return heard

    def _incompatible(self, topic: str) -> Callable[[Any], None]:
        def heard(info: Any) -> None:
            name = qos_policy_name_from_kind(info.last_policy_kind)
            self._add(topic, "incompatible_qos", info.total_count_change, str(name))

        return heard

    def _liveliness(self, topic: str) -> Callable[[Any], None]:
        def heard(info: Any) -> None:
            # A publisher that ends in peace leaves `alive_count` only.
            if info.not_alive_count_change > 0:
                self._add(topic, "liveliness_lost", info.not_alive_count_change)

        return heard

    def _add(self, topic: str, event: Event, number: int, why: str = "") -> None:
        if number > 0:
            self._events.add(topic, event, number, why)
            self._logger.warning(f"{topic}: {event} {why}".rstrip())


def _with_events(
    create: Callable[[Any], Made], callbacks: Callable[..., Any], known: dict[str, Callable[[Any], None]]
) -> Made:
    """Leave out, from the last on, what the middleware does not have: it does not say beforehand."""
    try:
        return create(callbacks(**known, use_default_callbacks=False))
    except UnsupportedEventTypeError:
        if not known:
            raise
    return _with_events(create, callbacks, dict(list(known.items())[:-1]))
