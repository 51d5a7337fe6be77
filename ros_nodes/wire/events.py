"""What Cyclone has counted of QoS since it was asked last."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ros_nodes.qos import Events

if TYPE_CHECKING:
    from cyclonedds.pub import DataWriter
    from cyclonedds.sub import DataReader

_POLICIES = {
    2: "durability",
    4: "deadline",
    8: "liveliness",
    11: "reliability",
    23: "data representation",
}
"""Numbers of policies, of those that can be at odds. Source: DDS 1.4, 2.2.3; DDS-XTypes 1.3, 7.6.3.1.1."""


def count_events(
    readers: Mapping[DataReader[Any], str], writers: Mapping[str, DataWriter[Any]], events: Events
) -> None:
    """Ask every endpoint, and add what is new; asking resets Cyclone's own counts of what is new."""
    for reader, topic in readers.items():
        events.add(topic, "deadline_missed", reader.get_requested_deadline_missed_status().total_count_change)
        events.add(topic, "message_lost", reader.get_sample_lost_status().total_count_change)
        _add_incompatible(topic, reader.get_requested_incompatible_qos_status(), "a publisher offers less", events)
    for topic, writer in writers.items():
        events.add(topic, "deadline_missed", writer.get_offered_deadline_missed_status().total_count_change)
        _add_incompatible(topic, writer.get_offered_incompatible_qos_status(), "a subscriber wants more", events)


def _add_incompatible(topic: str, status: Any, who: str, events: Events) -> None:
    if status.total_count_change:
        policy = _POLICIES.get(status.last_policy_id, f"policy {status.last_policy_id}")
        events.add(topic, "incompatible_qos", status.total_count_change, f"({who}: {policy})")
