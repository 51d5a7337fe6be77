"""The lifecycle in the numbers and messages of lifecycle_msgs. Source: rcl_lifecycle/src/default_state_machine.c."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, cast, get_args

from ros_nodes.core.lifecycle import LifecycleError, Outcome, State, Step, Transition, allowed, begin, end
from ros_nodes.messages.outgoing import Library, Message

_SHUTDOWN = {State.UNCONFIGURED: 5, State.INACTIVE: 6, State.ACTIVE: 7}
_NUMBERS: dict[Transition, int] = {"configure": 1, "cleanup": 2, "activate": 3, "deactivate": 4, "fail": 4}
_OUTCOMES: dict[State, int] = {
    State.CONFIGURING: 10,
    State.CLEANING_UP: 20,
    State.ACTIVATING: 30,
    State.DEACTIVATING: 40,
    State.SHUTTING_DOWN: 50,
    State.ERROR_PROCESSING: 60,
}
"""The number of each transition's success; failure and error follow."""


class Edge(NamedTuple):
    """One transition of the machine, with its number and label in lifecycle_msgs."""

    number: int
    label: str
    start: State
    goal: State


def edges_from(state: State) -> tuple[Edge, ...]:
    """What leads out of a state."""
    if state in _OUTCOMES:
        outcomes: tuple[Outcome, ...] = get_args(Outcome)
        return tuple(
            Edge(_OUTCOMES[state] + i, f"transition_{outcome}", state, end(state, outcome))
            for i, outcome in enumerate(outcomes)
        )
    return tuple(Edge(_number(state, name), name, state, begin(state, name)) for name in allowed(state))


def all_edges() -> tuple[Edge, ...]:
    """The whole machine."""
    return tuple(edge for state in State for edge in edges_from(state))


def _number(state: State, name: Transition) -> int:
    return _SHUTDOWN[state] if name == "shutdown" else _NUMBERS[name]


def asked_for(state: State, number: int, label: str) -> Transition:
    """What a ChangeState asks for: by its label where it has one, else by its number, as rclcpp takes it.

    Raises LifecycleError for what is not to be had in this state.
    """
    for edge in edges_from(state):
        if (edge.label == label if label else edge.number == number) and edge.label in get_args(Transition):
            return cast(Transition, edge.label)
    names = " or ".join(allowed(state)) or "no transition"
    raise LifecycleError(f"lifecycle: expected {names} while {state.label}, got {label or number}; ask for another")


def notices(before: State, step: Step, library: Library) -> tuple[Callable[[int], Message], ...]:
    """The TransitionEvents of a step from a state, each to be given its time in nanoseconds."""
    return tuple(lambda at_ns, edge=edge: _event(edge, at_ns, library) for edge in _path(before, step))


def _path(before: State, step: Step) -> tuple[Edge, ...]:
    """The edges that a step went along: into the state of the transition, out of it, and out of error processing."""
    # What a node does unasked when its inference fails is to lifecycle_msgs a deactivation.
    asked = "deactivate" if step.transition == "fail" else step.transition
    for first in (edge for edge in edges_from(before) if edge.label == asked):
        (second,) = (edge for edge in edges_from(first.goal) if edge.label == f"transition_{step.outcome}")
        if second.goal != State.ERROR_PROCESSING:
            return first, second
        (cleared, *_) = (edge for edge in edges_from(second.goal) if edge.goal == step.state)
        return first, second, cleared
    return ()


def state_message(state: State, library: Library) -> Message:
    """A lifecycle_msgs/State."""
    return library.make("lifecycle_msgs/msg/State", id=int(state), label=state.label)


def transition_message(edge: Edge, library: Library) -> Message:
    """A lifecycle_msgs/Transition."""
    return library.make("lifecycle_msgs/msg/Transition", id=edge.number, label=edge.label)


def description_message(edge: Edge, library: Library) -> Message:
    """A lifecycle_msgs/TransitionDescription."""
    return library.make(
        "lifecycle_msgs/msg/TransitionDescription",
        transition=transition_message(edge, library),
        start_state=state_message(edge.start, library),
        goal_state=state_message(edge.goal, library),
    )


def _event(edge: Edge, at_ns: int, library: Library) -> Message:
    return library.make(
        "lifecycle_msgs/msg/TransitionEvent",
        timestamp=at_ns,
        transition=transition_message(edge, library),
        start_state=state_message(edge.start, library),
        goal_state=state_message(edge.goal, library),
    )
