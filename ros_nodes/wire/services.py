"""The services of a managed node, over the header of rmw_cyclonedds.

Source: rmw_cyclonedds_cpp/src/rmw_node.cpp and serdata.hpp: before the request and the reply stands the client's
{uint64 guid; int64 seq}, which the reply repeats. rmw_fastrtps has another one, and gets no answer.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from avcompress.spec import AvcompressError
from ros_nodes.bag.library import RosbagsLibrary
from ros_nodes.core.lifecycle import State
from ros_nodes.core.node import Node
from ros_nodes.messages.outgoing import Message
from ros_nodes.qos import Events, Qos
from ros_nodes.wire.ear import Ear
from ros_nodes.wire.names import reply_name, request_name
from ros_nodes.wire.participant import Participant, Writer
from ros_nodes.wire.transitions import all_edges, asked_for, description_message, edges_from, state_message

if TYPE_CHECKING:
    from cyclonedds.sub import DataReader
    from rosbags.typesys.store import Typestore

_SERVICE = Qos(reliability="reliable", depth=10)
_ENCAPSULATION, _HEADER = 4, 16
_DISCOVERY_S, _LOOK_EVERY_S = 1.0, 0.005
# CDR has no empty structures.
_EMPTY = "uint8 structure_needs_at_least_one_member\n"
_DEFINITIONS = {
    "ChangeState_Request": "lifecycle_msgs/Transition transition\n",
    "ChangeState_Response": "bool success\n",
    "GetState_Request": _EMPTY,
    "GetState_Response": "lifecycle_msgs/State current_state\n",
    "GetAvailableStates_Request": _EMPTY,
    "GetAvailableStates_Response": "lifecycle_msgs/State[] available_states\n",
    "GetAvailableTransitions_Request": _EMPTY,
    "GetAvailableTransitions_Response": "lifecycle_msgs/TransitionDescription[] available_transitions\n",
}

Answer = Callable[[Message], Message]


@cache
def service_store() -> Typestore:
    """The types of lifecycle_msgs' services."""
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    store = get_typestore(Stores.ROS2_HUMBLE)
    for name, text in _DEFINITIONS.items():
        # rosbags knows no names of services' messages; their types are like any other.
        ((_, fields),) = get_types_from_msg(text, f"lifecycle_msgs/msg/{name}").items()
        store.register({f"lifecycle_msgs/srv/{name}": fields})
    return store


class Services:
    """Answers `~/get_state` and its like; `~/change_state` has a thread of its own, as loading takes its time."""

    def __init__(self, participant: Participant, name: str, node: Node, events: Events) -> None:
        self._participant, self._name, self._node, self._events = participant, name, node, events
        self._library = RosbagsLibrary()
        self._ears = [
            self._listen({"change_state": ("ChangeState", self._change)}, "transitions"),
            self._listen(
                {
                    "get_state": ("GetState", self._state),
                    "get_available_states": ("GetAvailableStates", self._states),
                    "get_available_transitions": ("GetAvailableTransitions", self._transitions),
                    "get_transition_graph": ("GetAvailableTransitions", self._graph),
                },
                "services",
            ),
        ]

    def close(self) -> None:
        """Answer nothing more."""
        for ear in self._ears:
            ear.close()

    def _listen(self, answers: dict[str, tuple[str, Answer]], thread: str) -> Ear:
        hear = {}
        for service, (kind, answer) in answers.items():
            full, message = f"/{self._name}/{service}", f"lifecycle_msgs/srv/{kind}"
            # A client looks for a pair of reader and writer that say they are of one service.
            identity = f"serviceid={'.'.join(f'{byte:x}' for byte in uuid.uuid4().bytes)};"
            store = service_store()
            reader = self._participant.reader(request_name(full), f"{message}_Request", _SERVICE, identity, store)
            writer = self._participant.writer(reply_name(full), f"{message}_Response", _SERVICE, identity, store)
            hear[reader] = partial(_reply, reader, writer, message, answer)
        return Ear(self._participant, hear, self._not_heard, thread)

    def _not_heard(self, topic: str, error: Exception) -> None:
        self._events.add(topic, "unreadable", why=str(error))

    # --- the answers

    def _change(self, request: Message) -> Message:
        try:
            name = asked_for(self._node.state, int(request.transition.id), str(request.transition.label))
            success = self._node.transition(name).outcome == "success"
        except AvcompressError:
            success = False  # asked for in the wrong state; the state itself says what is to be had
        return _make("ChangeState_Response", success=success)

    def _state(self, _: Message) -> Message:
        return _make("GetState_Response", current_state=state_message(self._node.state, self._library))

    def _states(self, _: Message) -> Message:
        unknown = self._library.make("lifecycle_msgs/msg/State", id=0, label="unknown")
        states = [unknown, *(state_message(state, self._library) for state in State)]
        return _make("GetAvailableStates_Response", available_states=states)

    def _transitions(self, _: Message) -> Message:
        found = [description_message(edge, self._library) for edge in edges_from(self._node.state)]
        return _make("GetAvailableTransitions_Response", available_transitions=found)

    def _graph(self, _: Message) -> Message:
        found = [description_message(edge, self._library) for edge in all_edges()]
        return _make("GetAvailableTransitions_Response", available_transitions=found)


def _make(name: str, **fields: Any) -> Message:
    return service_store().types[f"lifecycle_msgs/srv/{name}"](**fields)


def _reply(reader: DataReader[Any], writer: Writer, message: str, answer: Answer, data: bytes) -> None:
    store, body = service_store(), _ENCAPSULATION + _HEADER
    request = store.deserialize_cdr(data[:_ENCAPSULATION] + data[body:], f"{message}_Request")
    encoded = bytes(store.serialize_cdr(answer(request), f"{message}_Response"))
    _await_client(reader, writer)
    writer.write(encoded[:_ENCAPSULATION] + _header(data) + encoded[_ENCAPSULATION:])


def _header(data: bytes) -> bytes:
    """The client's guid and sequence number, little-endian as our replies are."""
    is_little = data[1] & 1
    guid, sequence = data[_ENCAPSULATION : _ENCAPSULATION + 8], data[_ENCAPSULATION + 8 : _ENCAPSULATION + _HEADER]
    return guid + sequence if is_little else guid[::-1] + sequence[::-1]


def _await_client(reader: DataReader[Any], writer: Writer) -> None:
    """Wait until whoever may ask can hear the answer: a client's writer may be met before its reader."""
    end = time.monotonic() + _DISCOVERY_S
    while len(writer.dds.get_matched_subscriptions()) < len(reader.get_matched_publications()):
        if time.monotonic() > end:
            return
        time.sleep(_LOOK_EVERY_S)
