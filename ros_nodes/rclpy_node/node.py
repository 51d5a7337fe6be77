"""A managed node of ROS 2: its transitions, parameters and topics are those of the core's node.

Transitions, parameters and what follows from them run in the node's default callback group, one at a time; images in
groups of their own; inference and the watchdog in threads of the core. So an inference that hangs keeps no service from
answering, and loading a bundle keeps only those of the node itself waiting.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rcl_interfaces.msg import SetParametersResult
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn

from avcompress.spec import RecipeError
from engines.session import one_line
from ros_nodes.core.clock import Clock
from ros_nodes.core.lifecycle import LifecycleError, State, Step, Transition
from ros_nodes.core.loading import Load
from ros_nodes.core.node import Node
from ros_nodes.core.served import Served, load_served
from ros_nodes.core.threads import Threads
from ros_nodes.parameters import Told, check, refusal, told
from ros_nodes.rclpy_node.declared import declare, values
from ros_nodes.rclpy_node.port import RclpyPort

if TYPE_CHECKING:
    from rclpy.lifecycle import LifecycleState
    from rclpy.parameter import Parameter

_RETURNED = {
    "success": TransitionCallbackReturn.SUCCESS,
    "failure": TransitionCallbackReturn.FAILURE,
    "error": TransitionCallbackReturn.ERROR,
}
_GONE = frozenset({State.UNCONFIGURED, State.FINALIZED})


class ServingNode(LifecycleNode):  # type: ignore[misc]  # rclpy is not here where types are checked
    """Serves a bundle to cameras, as ROS 2 wants it."""

    def __init__(self, name: str = "avcompress", load: Load = load_served, **options: Any) -> None:
        super().__init__(name, **options)
        self._load = load
        self._threads = contextlib.ExitStack()
        # What ROS's own state machine says, as far as we have let it.
        self._configured = self._active = False
        declare(self)
        self.add_on_set_parameters_callback(self._on_set)
        self._autostart = bool(self.get_parameter("autostart").value)
        self._follow = self.create_guard_condition(self._catch_up)
        # From the first moment on: whoever watches the diagnostics has to see a node that waits.
        self._made_of, self._port, self._core = self._make(self._known(), load)
        if self._autostart:
            self._follow.trigger()

    @property
    def core(self) -> Node:
        """What serves; another one after it was configured with other parameters."""
        return self._core

    # --- lifecycle

    def on_configure(self, _: LifecycleState) -> TransitionCallbackReturn:
        """Load what the parameters name; fails, with the reason in log and diagnostics, where that cannot be served."""
        try:
            self._make_anew(told(values(self)), self._load)
        except RecipeError as error:
            self._make_anew(self._known(), _refuses(error))
        returned = self._do("configure")
        self._configured = returned == TransitionCallbackReturn.SUCCESS
        return returned

    def on_activate(self, _: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe."""
        returned = self._do("activate")
        self._active = returned == TransitionCallbackReturn.SUCCESS
        return returned

    def on_deactivate(self, _: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe; also what follows when the core has stopped by itself."""
        state = self._core.state
        if state in _GONE:
            return TransitionCallbackReturn.ERROR
        returned = TransitionCallbackReturn.SUCCESS if state == State.INACTIVE else self._do("deactivate")
        # Where the core is just stopping by itself, ROS's machine has to follow when it is done.
        self._active = returned != TransitionCallbackReturn.SUCCESS
        self._port.settle()
        return returned

    def on_cleanup(self, _: LifecycleState) -> TransitionCallbackReturn:
        """Free the engines."""
        returned = self._do("cleanup")
        self._configured = returned != TransitionCallbackReturn.SUCCESS
        return returned

    def on_shutdown(self, _: LifecycleState) -> TransitionCallbackReturn:
        """Free everything."""
        self._active = self._configured = False
        returned = TransitionCallbackReturn.SUCCESS
        if self._core.state != State.FINALIZED:
            returned = self._do("shutdown")
        self._port.settle()
        return returned

    def on_error(self, _: LifecycleState) -> TransitionCallbackReturn:
        """The core has cleared up after itself already, or could not."""
        self._active = self._configured = False
        self._port.settle()
        cleared = self._core.state == State.UNCONFIGURED
        return TransitionCallbackReturn.SUCCESS if cleared else TransitionCallbackReturn.FAILURE

    def _do(self, name: Transition) -> TransitionCallbackReturn:
        try:
            return _RETURNED[self._core.transition(name).outcome]
        except LifecycleError as error:  # it has just stopped by itself: ROS will hear of that next
            self.get_logger().error(str(error))
            return TransitionCallbackReturn.FAILURE

    # --- the core

    def _known(self) -> Told:
        """What the parameters say before a bundle is named; the defaults, where they are wrong."""
        said = values(self)
        with contextlib.suppress(RecipeError):  # `configure` tells of it
            return told({**said, "bundle": said["bundle"] or "none"})
        return told({"bundle": "none"})

    def _make_anew(self, what: Told, load: Load) -> None:
        """Have a core of these; the one there is stays, with all that it has counted, where it is of the same."""
        if (what, load) != self._made_of:
            self._stop()
            self._made_of, self._port, self._core = self._make(what, load)

    def _make(self, what: Told, load: Load) -> tuple[tuple[Told, Load], RclpyPort, Node]:
        port = RclpyPort(self, what, self._on_change)
        clock = Clock(time.monotonic_ns, lambda: self.get_clock().now().nanoseconds)
        core = Node(what.settings, port, clock, load)
        self._threads.enter_context(Threads(core))
        return (what, load), port, core

    def _stop(self) -> None:
        self._threads.close()
        self._port.close()

    def _on_change(self, step: Step) -> None:
        """The core has moved, in whatever thread."""
        if step.reason:
            self.get_logger().error(step.reason)
        self._follow.trigger()

    def _catch_up(self) -> None:
        """Bring ROS's state machine to where the core has gone by itself; in the default callback group."""
        if self._autostart:
            self._autostart = False
            if self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
                self.trigger_activate()
        if self._active and self._core.state != State.ACTIVE:
            self.trigger_deactivate()

    # --- parameters

    def _on_set(self, changed: Sequence[Parameter]) -> SetParametersResult:
        """Refuse what is wrong, or cannot change now; a new `bundle` is swapped in before this returns."""
        known = values(self)
        ours = {parameter.name: parameter.value for parameter in changed if parameter.name in known}
        if not ours:  # rclpy's own, such as qos_overrides
            return SetParametersResult(successful=True)
        try:
            for name in ours:
                reason = refusal(name, self._configured)
                if reason:
                    return SetParametersResult(successful=False, reason=reason)
            check(known | ours)
            if self._configured and "bundle" in ours:
                self._core.swap(Path(told(known | ours).settings.bundle))
        except Exception as error:  # whatever a runtime raises while it loads: who asked has to get an answer
            return SetParametersResult(successful=False, reason=one_line(error))
        return SetParametersResult(successful=True)

    # --- the end

    def destroy_node(self) -> None:
        """End the threads, free the engines, and what else the node has."""
        if self._core.state != State.FINALIZED:
            with contextlib.suppress(LifecycleError):
                self._core.transition("shutdown")
        self._stop()
        super().destroy_node()


def _refuses(error: RecipeError) -> Load:
    """A load that fails with what is wrong with the parameters."""

    def load(*_: object) -> Served:
        raise error

    return load
