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

from avcompress.spec import AvcompressError, RecipeError
from ros_nodes.core.clock import Clock
from ros_nodes.core.lifecycle import LifecycleError, State, Step, Transition
from ros_nodes.core.loading import Load
from ros_nodes.core.node import Node
from ros_nodes.core.served import load_served
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
        self._core: Node | None = None
        self._port: RclpyPort | None = None
        self._told: Told | None = None
        self._threads = contextlib.ExitStack()
        # What ROS's own state machine says, as far as we have let it.
        self._configured = self._active = False
        declare(self)
        self.add_on_set_parameters_callback(self._on_set)
        self._autostart = bool(self.get_parameter("autostart").value)
        self._follow = self.create_guard_condition(self._catch_up)
        if self._autostart:
            self._follow.trigger()

    @property
    def core(self) -> Node | None:
        """What serves; None before it was configured for the first time."""
        return self._core

    # --- lifecycle

    def on_configure(self, _: LifecycleState) -> TransitionCallbackReturn:
        """Load what the parameters name; fails, with the reason in the log, where that cannot be served."""
        try:
            core = self._serving(told(values(self)))
        except RecipeError as error:
            self.get_logger().error(f"configure: {error}")
            return TransitionCallbackReturn.FAILURE
        returned = self._returned(core, "configure")
        self._configured = returned == TransitionCallbackReturn.SUCCESS
        return returned

    def on_activate(self, _: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe."""
        returned = self._do("activate")
        self._active = returned == TransitionCallbackReturn.SUCCESS
        return returned

    def on_deactivate(self, _: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe; also what follows when the core has stopped by itself."""
        self._active = False
        core = self._core
        if core is None or core.state in _GONE:
            return TransitionCallbackReturn.ERROR
        returned = TransitionCallbackReturn.SUCCESS if core.state == State.INACTIVE else self._do("deactivate")
        self._settle()
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
        if self._core is not None and self._core.state != State.FINALIZED:
            returned = self._do("shutdown")
        self._settle()
        return returned

    def on_error(self, _: LifecycleState) -> TransitionCallbackReturn:
        """The core has cleared up after itself already, or could not."""
        self._active = self._configured = False
        self._settle()
        cleared = self._core is None or self._core.state == State.UNCONFIGURED
        return TransitionCallbackReturn.SUCCESS if cleared else TransitionCallbackReturn.FAILURE

    def _do(self, name: Transition) -> TransitionCallbackReturn:
        return TransitionCallbackReturn.ERROR if self._core is None else self._returned(self._core, name)

    def _returned(self, core: Node, name: Transition) -> TransitionCallbackReturn:
        try:
            return _RETURNED[core.transition(name).outcome]
        except LifecycleError as error:  # it has just stopped by itself: ROS will hear of that next
            self.get_logger().error(str(error))
            return TransitionCallbackReturn.FAILURE

    def _serving(self, what: Told) -> Node:
        """The core for these parameters: the one there is, with all that it has counted, where they are the same."""
        if self._core is not None and what == self._told:
            return self._core
        self._stop()
        self._told = what
        self._port = RclpyPort(self, what, self._on_change)
        clock = Clock(time.monotonic_ns, lambda: self.get_clock().now().nanoseconds)
        self._core = Node(what.settings, self._port, clock, self._load)
        self._threads.enter_context(Threads(self._core))
        return self._core

    def _stop(self) -> None:
        self._threads.close()
        if self._port is not None:
            self._port.close()

    def _settle(self) -> None:
        if self._port is not None:
            self._port.settle()

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
        if self._active and self._core is not None and self._core.state != State.ACTIVE:
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
            if self._configured and self._core is not None and "bundle" in ours:
                self._core.swap(Path(told(known | ours).settings.bundle))
        except AvcompressError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    # --- the end

    def destroy_node(self) -> None:
        """End the threads, free the engines, and what else the node has."""
        if self._core is not None and self._core.state != State.FINALIZED:
            with contextlib.suppress(LifecycleError):
                self._core.transition("shutdown")
        self._stop()
        super().destroy_node()
