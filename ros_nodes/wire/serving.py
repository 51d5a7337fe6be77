"""A node on the wire, from its first message to its last."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress

from ros_nodes.core.clock import REAL, Clock
from ros_nodes.core.lifecycle import LifecycleError, State, Step, Transition, allowed
from ros_nodes.core.loading import Load
from ros_nodes.core.node import Node
from ros_nodes.core.served import load_served
from ros_nodes.core.settings import Settings
from ros_nodes.core.threads import Threads
from ros_nodes.wire.participant import Participant
from ros_nodes.wire.port import WirePort
from ros_nodes.wire.services import Services
from ros_nodes.wire.settings import Network
from ros_nodes.wiring import Wiring

Say = Callable[[Step], None]
_DOWN: tuple[Transition, ...] = ("deactivate", "cleanup", "shutdown")
_LOOK_EVERY_S = 0.01


@contextmanager
def node_on_wire(
    settings: Settings, wiring: Wiring, network: Network, clock: Clock = REAL, load: Load = load_served
) -> Iterator[tuple[Node, WirePort]]:
    """A node with its services, without threads of its own, which is shut down afterwards.

    Raises MissingError without `cyclonedds`; EngineError where the network cannot be joined.
    """
    with closing(Participant(wiring.node, network)) as participant:
        port = WirePort(participant, wiring, clock)
        with _managed(Node(settings, port, clock, load), port, wiring) as node:
            yield node, port


@contextmanager
def serving(settings: Settings, wiring: Wiring, network: Network, say: Say, autostart: bool = False) -> Iterator[Node]:
    """A node with its services and threads, which is shut down afterwards.

    `say` is told of every step of the lifecycle. With `autostart` the node is configured and activated; where that is
    refused it stays as it is, says so in its diagnostics, and may be asked again.
    """
    with closing(Participant(wiring.node, network)) as participant:
        port = WirePort(participant, wiring, on_change=say)
        node = Node(settings, port)
        with Threads(node), _managed(node, port, wiring):
            if autostart:
                start(node)
            yield node


@contextmanager
def _managed(node: Node, port: WirePort, wiring: Wiring) -> Iterator[Node]:
    services = Services(port.participant, wiring.node, node, port.events)
    try:
        yield node
    finally:
        services.close()
        bring_down(node)


def start(node: Node) -> None:
    """Configure and activate; a manager that asks at the same time leads."""
    with suppress(LifecycleError):
        if node.transition("configure").state == State.INACTIVE:
            node.transition("activate")


def bring_down(node: Node, patience_s: float = 5.0) -> None:
    """Lead a node to its end, also one that is stopping by itself at the same time."""
    end = time.monotonic() + patience_s
    while not _is_down(node) and time.monotonic() < end:
        time.sleep(_LOOK_EVERY_S)


def _is_down(node: Node) -> bool:
    for transition in _DOWN:
        with suppress(LifecycleError):
            if transition in allowed(node.state):
                node.transition(transition)
    return node.state == State.FINALIZED
