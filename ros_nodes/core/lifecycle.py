"""The managed lifecycle of ROS 2 as one pure table, the same for every transport.

unconfigured ──configure──▶ inactive ──activate──▶ active ──fail──▶ inactive
             ◀──cleanup───          ◀─deactivate─
any of them ──shutdown──▶ finalized

Source: rcl_lifecycle/src/default_state_machine.c; the numbers are those of lifecycle_msgs. `fail` is ours: what an
active node does when its inference fails, without being asked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

from avcompress.spec import AvcompressError
from engines.session import one_line


class State(IntEnum):
    """The numbers of lifecycle_msgs/State; those from 10 on last as long as a transition."""

    UNCONFIGURED = 1
    INACTIVE = 2
    ACTIVE = 3
    FINALIZED = 4
    CONFIGURING = 10
    CLEANING_UP = 11
    SHUTTING_DOWN = 12
    ACTIVATING = 13
    DEACTIVATING = 14
    ERROR_PROCESSING = 15

    @property
    def label(self) -> str:
        """As ROS 2 spells it: errorprocessing."""
        return self.name.lower().replace("_", "")


Transition = Literal["configure", "cleanup", "activate", "deactivate", "shutdown", "fail"]
Outcome = Literal["success", "failure", "error"]
"""What a transition came to; failure was foreseen, and leaves the node as it was, an error was not."""

_BEGIN: dict[tuple[State, Transition], State] = {
    (State.UNCONFIGURED, "configure"): State.CONFIGURING,
    (State.INACTIVE, "cleanup"): State.CLEANING_UP,
    (State.INACTIVE, "activate"): State.ACTIVATING,
    (State.ACTIVE, "deactivate"): State.DEACTIVATING,
    (State.ACTIVE, "fail"): State.DEACTIVATING,
    (State.UNCONFIGURED, "shutdown"): State.SHUTTING_DOWN,
    (State.INACTIVE, "shutdown"): State.SHUTTING_DOWN,
    (State.ACTIVE, "shutdown"): State.SHUTTING_DOWN,
}
_END: dict[tuple[State, Outcome], State] = {
    (State.CONFIGURING, "success"): State.INACTIVE,
    (State.CONFIGURING, "failure"): State.UNCONFIGURED,
    (State.CONFIGURING, "error"): State.ERROR_PROCESSING,
    (State.CLEANING_UP, "success"): State.UNCONFIGURED,
    (State.CLEANING_UP, "failure"): State.INACTIVE,
    (State.CLEANING_UP, "error"): State.ERROR_PROCESSING,
    (State.ACTIVATING, "success"): State.ACTIVE,
    (State.ACTIVATING, "failure"): State.INACTIVE,
    (State.ACTIVATING, "error"): State.ERROR_PROCESSING,
    (State.DEACTIVATING, "success"): State.INACTIVE,
    (State.DEACTIVATING, "failure"): State.ACTIVE,
    (State.DEACTIVATING, "error"): State.ERROR_PROCESSING,
    (State.SHUTTING_DOWN, "success"): State.FINALIZED,
    (State.SHUTTING_DOWN, "failure"): State.FINALIZED,
    (State.SHUTTING_DOWN, "error"): State.ERROR_PROCESSING,
    (State.ERROR_PROCESSING, "success"): State.UNCONFIGURED,
    (State.ERROR_PROCESSING, "failure"): State.FINALIZED,
    (State.ERROR_PROCESSING, "error"): State.FINALIZED,
}


_LONGEST = 2000
"""Characters of a reason: a refusal says at its end what to do."""


class LifecycleError(AvcompressError):
    """A transition that the state does not have."""


def allowed(state: State) -> tuple[Transition, ...]:
    """What may be asked for in a state; nothing while a transition lasts."""
    return tuple(transition for at, transition in _BEGIN if at == state and transition != "fail")


def begin(state: State, transition: Transition) -> State:
    """The state that a transition lasts in; raises LifecycleError where `state` has none of that name."""
    found = _BEGIN.get((state, transition))
    if found is None:
        raise LifecycleError(
            f"lifecycle: expected {' or '.join(allowed(state)) or 'no transition'} while {state.label}, got "
            f"{transition}; ask for the transitions in their order"
        )
    return found


def end(state: State, outcome: Outcome) -> State:
    """The state that a transition leads to; raises LifecycleError for a state in which none is under way."""
    found = _END.get((state, outcome))
    if found is None:
        raise LifecycleError(f"lifecycle: expected a transition under way, got the end of one while {state.label}")
    return found


@dataclass(frozen=True)
class Step:
    """How a transition went.

    Attributes:
        state: that it led to.
        outcome: of the transition itself.
        reason: one line, where it was not a success.
        transition: which it was; None where nobody has said.
    """

    state: State
    outcome: Outcome
    reason: str = ""
    transition: Transition | None = None


def conclude(begun: State, action: Callable[[], None], on_error: Callable[[], None]) -> Step:
    """Do a transition's work from the state that `begin` gave, and say where it leads.

    An AvcompressError is a failure; any other exception is an error, which `on_error` has to clear up after, or the
    node is finalized.
    """
    try:
        action()
    except AvcompressError as error:
        return Step(end(begun, "failure"), "failure", one_line(error, _LONGEST))
    except Exception as error:  # a node outlives what it did not foresee, and says so
        reason = f"{type(error).__name__}: {one_line(error, _LONGEST)}"
        return Step(end(end(begun, "error"), _outcome(on_error)), "error", reason)
    return Step(end(begun, "success"), "success")


def _outcome(on_error: Callable[[], None]) -> Outcome:
    try:
        on_error()
    except Exception:  # what remains is to end: `finalized` says it
        return "error"
    return "success"
