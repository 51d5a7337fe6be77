import pytest
from hypothesis import given
from hypothesis import strategies as st

from avcompress.spec import EngineError
from ros_nodes.core.lifecycle import LifecycleError, State, Step, allowed, begin, conclude, end

RESTING = (State.UNCONFIGURED, State.INACTIVE, State.ACTIVE, State.FINALIZED)
ASKED = ("configure", "cleanup", "activate", "deactivate", "shutdown")


def nothing():
    pass


def refuse():
    raise EngineError("bundle: expected a signature, got none; sign it")


def crash():
    raise ValueError("unforeseen")


def test_the_whole_way_is_that_of_ros_2():
    state, way = State.UNCONFIGURED, []
    for transition in ("configure", "activate", "deactivate", "activate", "fail", "cleanup", "configure", "shutdown"):
        begun = begin(state, transition)
        state = conclude(begun, nothing, nothing).state
        way.append((begun.label, state.label))
    assert way == [
        ("configuring", "inactive"),
        ("activating", "active"),
        ("deactivating", "inactive"),
        ("activating", "active"),
        ("deactivating", "inactive"),
        ("cleaningup", "unconfigured"),
        ("configuring", "inactive"),
        ("shuttingdown", "finalized"),
    ]


def test_what_may_be_asked_for_in_each_state():
    assert {state.label: allowed(state) for state in RESTING} == {
        "unconfigured": ("configure", "shutdown"),
        "inactive": ("cleanup", "activate", "shutdown"),
        "active": ("deactivate", "shutdown"),
        "finalized": (),
    }
    assert all(allowed(state) == () for state in State if state not in RESTING)


@pytest.mark.parametrize(
    ("state", "transition", "message"),
    [
        (State.UNCONFIGURED, "activate", "expected configure or shutdown while unconfigured, got activate"),
        (State.FINALIZED, "configure", "expected no transition while finalized, got configure"),
        (State.CONFIGURING, "shutdown", "expected no transition while configuring, got shutdown"),
        (State.INACTIVE, "fail", "expected cleanup or activate or shutdown while inactive, got fail"),
    ],
)
def test_a_transition_out_of_order_is_refused(state, transition, message):
    with pytest.raises(LifecycleError, match=message):
        begin(state, transition)


def test_an_end_without_a_beginning_is_refused():
    with pytest.raises(LifecycleError, match="got the end of one while active"):
        end(State.ACTIVE, "success")


@pytest.mark.parametrize(
    ("state", "transition", "stays"),
    [
        (State.UNCONFIGURED, "configure", State.UNCONFIGURED),
        (State.INACTIVE, "activate", State.INACTIVE),
        (State.INACTIVE, "cleanup", State.INACTIVE),
        (State.ACTIVE, "deactivate", State.ACTIVE),
    ],
)
def test_what_is_refused_leaves_the_node_where_it_was(state, transition, stays):
    step = conclude(begin(state, transition), refuse, crash)
    assert step == Step(stays, "failure", "bundle: expected a signature, got none; sign it")


def test_what_nobody_foresaw_leads_back_to_the_beginning_or_to_the_end():
    begun = begin(State.INACTIVE, "activate")
    assert conclude(begun, crash, nothing) == Step(State.UNCONFIGURED, "error", "ValueError: unforeseen")
    assert conclude(begun, crash, crash) == Step(State.FINALIZED, "error", "ValueError: unforeseen")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("Invalid topic name: bad\n  here\n  ^"), "ValueError: Invalid topic name: bad here ^"),
        (EngineError("trt: no\nengine"), "trt: no engine"),
    ],
)
def test_a_reason_is_one_line_whatever_was_raised(error, reason):
    def crash_at_length():
        raise error

    assert conclude(begin(State.INACTIVE, "activate"), crash_at_length, nothing).reason == reason


@given(st.lists(st.tuples(st.sampled_from(ASKED), st.sampled_from([nothing, refuse, crash]))))
def test_whatever_is_asked_in_whatever_order_the_node_rests_in_a_state_of_ros_2(asked):
    state = State.UNCONFIGURED
    for transition, action in asked:
        may = transition in allowed(state)
        try:
            begun = begin(state, transition)
        except LifecycleError:
            assert not may
            continue
        assert may
        state = conclude(begun, action, nothing).state
        assert state in RESTING
