import pytest

from ros_nodes.bag.library import RosbagsLibrary
from ros_nodes.core.lifecycle import LifecycleError, State, Step
from ros_nodes.wire.transitions import all_edges, asked_for, edges_from, notices

LIBRARY = RosbagsLibrary()


def test_numbers_and_labels_are_those_of_lifecycle_msgs():
    # Source: lifecycle_msgs/msg/Transition.msg and rcl_lifecycle/src/default_state_machine.c.
    named = {(edge.start.label, edge.label, edge.goal.label): edge.number for edge in all_edges()}
    assert named["unconfigured", "configure", "configuring"] == 1
    assert named["inactive", "cleanup", "cleaningup"] == 2
    assert named["inactive", "activate", "activating"] == 3
    assert named["active", "deactivate", "deactivating"] == 4
    assert [named[state, "shutdown", "shuttingdown"] for state in ("unconfigured", "inactive", "active")] == [5, 6, 7]
    assert named["configuring", "transition_failure", "unconfigured"] == 11
    assert named["deactivating", "transition_error", "errorprocessing"] == 42
    assert named["errorprocessing", "transition_success", "unconfigured"] == 60
    assert len(named) == 7 + 6 * 3


def test_a_transition_is_asked_for_by_its_label_or_by_its_number():
    assert asked_for(State.UNCONFIGURED, 0, "configure") == "configure"
    assert asked_for(State.INACTIVE, 3, "") == "activate"
    assert asked_for(State.ACTIVE, 7, "") == "shutdown"


@pytest.mark.parametrize(("number", "label"), [(3, ""), (0, "activate"), (10, ""), (0, "fail"), (0, "")])
def test_what_the_state_does_not_have_is_refused(number, label):
    with pytest.raises(LifecycleError, match="expected configure or shutdown while unconfigured"):
        asked_for(State.UNCONFIGURED, number, label)


def test_nobody_may_ask_for_the_end_of_a_transition():
    with pytest.raises(LifecycleError):
        asked_for(State.CONFIGURING, 10, "")


@pytest.mark.parametrize(
    ("before", "step", "path"),
    [
        (State.UNCONFIGURED, Step(State.INACTIVE, "success", "", "configure"), [(1, "inactive"), (10, "")]),
        (State.UNCONFIGURED, Step(State.UNCONFIGURED, "failure", "", "configure"), [(1, ""), (11, "")]),
        (State.ACTIVE, Step(State.INACTIVE, "success", "", "fail"), [(4, ""), (40, "")]),
        (State.ACTIVE, Step(State.FINALIZED, "success", "", "shutdown"), [(7, ""), (50, "")]),
    ],
)
def test_a_step_is_told_as_its_beginning_and_its_end(before, step, path):
    told = [notice(5) for notice in notices(before, step, LIBRARY)]
    assert [one.transition.id for one in told] == [number for number, _ in path]
    assert told[0].start_state.label == before.label
    assert told[0].goal_state.id == told[1].start_state.id
    assert (told[1].goal_state.label, told[1].timestamp) == (step.state.label, 5)


def test_an_error_is_told_with_what_cleared_it_up():
    step = Step(State.UNCONFIGURED, "error", "x", "activate")
    assert [notice(5).transition.id for notice in notices(State.INACTIVE, step, LIBRARY)] == [3, 32, 60]


def test_a_state_that_is_final_leads_nowhere():
    assert edges_from(State.FINALIZED) == ()
