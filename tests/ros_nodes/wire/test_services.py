import contextlib

import pytest

from ros_nodes.core.lifecycle import State


@pytest.fixture
def client(wire_rig):
    """Make a client of a service."""
    with contextlib.ExitStack() as stack:

        def make(node, service, kind):
            made = wire_rig.Client(node.network, service, kind)
            stack.callback(made.close)
            return made

        yield make


def test_a_foreign_client_leads_the_node_through_its_life(on_wire, client):
    node = on_wire(activate=False)
    change, state = client(node, "change_state", "ChangeState"), client(node, "get_state", "GetState")
    seen = [state.call().current_state.label]
    for label in ("configure", "activate", "deactivate", "cleanup", "shutdown"):
        assert change.change(label)
        seen.append(state.call().current_state.label)
    assert seen == ["unconfigured", "inactive", "active", "inactive", "unconfigured", "finalized"]


def test_what_the_state_does_not_have_is_answered_with_no(on_wire, client):
    node = on_wire(activate=False)
    change = client(node, "change_state", "ChangeState")
    assert not change.change("activate")
    assert not change.change(number=3)
    assert change.change(number=1)
    assert node.node.state == State.INACTIVE


def test_a_bundle_that_is_refused_is_answered_with_no_and_told_in_the_diagnostics(on_wire, client):
    node = on_wire(activate=False)
    node.bench.engines.clear()
    assert not client(node, "change_state", "ChangeState").change("configure")
    assert client(node, "get_state", "GetState").call().current_state.id == State.UNCONFIGURED
    engine = node.status("engine", lambda status: status.level == 2)
    assert engine.message == "main: expected a bundle, got nothing; check the path"


def test_states_and_transitions_can_be_asked_for(on_wire, client):
    node = on_wire()
    states = client(node, "get_available_states", "GetAvailableStates").call().available_states
    assert [(one.id, one.label) for one in states][:3] == [(0, "unknown"), (1, "unconfigured"), (2, "inactive")]
    assert len(states) == 11
    found = client(node, "get_available_transitions", "GetAvailableTransitions").call().available_transitions
    assert [(one.transition.label, one.goal_state.label) for one in found] == [
        ("deactivate", "deactivating"),
        ("shutdown", "shuttingdown"),
    ]
    assert len(client(node, "get_transition_graph", "GetAvailableTransitions").call().available_transitions) == 25


def test_each_client_gets_the_answer_to_its_own_question(on_wire, client):
    node = on_wire(activate=False)
    one, other = (client(node, "get_state", "GetState") for _ in range(2))
    for _ in range(5):
        assert one.call().current_state.id == other.call().current_state.id == 1
    assert one.guid != other.guid


def test_a_client_of_the_other_order_of_bytes_finds_its_own_header():
    from ros_nodes.wire.services import _header

    assert _header(b"\0\1\0\0" + bytes(range(16)) + b"x") == bytes(range(16))
    assert _header(b"\0\0\0\0" + bytes(range(16)) + b"x") == bytes([*range(7, -1, -1), *range(15, 7, -1)])


def test_bytes_that_are_no_request_are_counted_and_the_next_one_is_answered(on_wire, client):
    """Cyclone lets no writer of its own send them: as if they came from another one."""
    from ros_nodes.wire.services import Services

    node = on_wire(activate=False)
    services = Services(node.port.participant, "second", node.node, node.port.events)
    ear = services._ears[0]
    ((reader, hear),) = ear._readers.items()
    ear._hand_on(reader, hear, b"\0\1\0\0" + bytes(2))
    services.close()
    assert node.port.events.total("unreadable") == 1
    assert client(node, "get_state", "GetState").call().current_state.id == 1


def test_every_transition_is_an_event_on_the_wire(on_wire, wire_rig):
    node = on_wire(activate=False)
    topic = "/vision/transition_event"
    listener = wire_rig.Listener(node.network, {topic: ("lifecycle_msgs/msg/TransitionEvent", wire_rig.ROOMY)})
    listener.await_publishers(topic)
    node.activate()
    told = wire_rig.until(lambda: len(listener.on(topic)) == 4 and listener.on(topic), "four events")
    assert [one.transition.id for one in told] == [1, 10, 3, 30]
    assert told[-1].goal_state.label == "active"
    listener.close()
