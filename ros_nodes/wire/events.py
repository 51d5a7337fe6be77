"""What Cyclone has counted of QoS since it was asked last, and what of that is so still."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ros_nodes.qos import Events
from ros_nodes.wire.names import topic_name
from ros_nodes.wire.participant import Participant

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

_ALL = 1 << 16
"""Endpoints in a network, more than there are."""


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


def unmatched(
    participant: Participant,
    readers: Mapping[DataReader[Any], str],
    writers: Mapping[str, DataWriter[Any]],
    events: Events,
) -> set[str]:
    """Topics on which an endpoint was incompatible, and one is there at this moment that ours have not met."""
    from cyclonedds.builtin import BuiltinTopicDcpsPublication, BuiltinTopicDcpsSubscription

    suspects = events.topics("incompatible_qos")
    met = [
        (topic, BuiltinTopicDcpsPublication, reader.get_matched_publications())
        for reader, topic in readers.items()
        if topic in suspects
    ] + [
        (topic, BuiltinTopicDcpsSubscription, writer.get_matched_subscriptions())
        for topic, writer in writers.items()
        if topic in suspects
    ]
    return {topic for topic, kind, known in met if _present(participant, kind, topic) - {*map(_unsigned, known)}}


def _unsigned(handle: int) -> int:
    """As samples have it: the binding gives the handles of matched endpoints as if they had a sign."""
    return handle % (1 << 64)


def _present(participant: Participant, kind: Any, topic: str) -> set[int]:
    """Handles of the endpoints of a topic, of those that discovery knows at this moment."""
    from cyclonedds.builtin import BuiltinDataReader
    from cyclonedds.core import InstanceState

    found = BuiltinDataReader(participant.dds, kind).read(_ALL)
    return {
        one.sample_info.instance_handle
        for one in found
        if one.topic_name == topic_name(topic) and one.sample_info.instance_state == InstanceState.Alive
    }


def _add_incompatible(topic: str, status: Any, who: str, events: Events) -> None:
    if status.total_count_change:
        policy = _POLICIES.get(status.last_policy_id, f"policy {status.last_policy_id}")
        events.add(topic, "incompatible_qos", status.total_count_change, f"({who}: {policy})")
