"""Runs the node until it is told to end."""

from __future__ import annotations

import rclpy
from rclpy.executors import ExternalShutdownException, MultiThreadedExecutor

from ros_nodes.core.memory import keep_freed_memory
from ros_nodes.rclpy_node.node import ServingNode

_THREADS = 4
"""Of callbacks: images of two cameras, a service, and an event at once; none of them lasts."""


def main(args: list[str] | None = None) -> int:
    """Start the node and serve its callbacks; returns when ROS is shut down, or on Ctrl-C."""
    keep_freed_memory()
    rclpy.init(args=args)
    node = ServingNode()
    executor = MultiThreadedExecutor(num_threads=_THREADS)
    executor.add_node(node)
    try:
        spin(node, executor)
    finally:
        executor.shutdown(timeout_sec=1.0)
        node.destroy_node()
        rclpy.try_shutdown()
    return 0


def spin(node: ServingNode, executor: MultiThreadedExecutor) -> None:
    """Serve callbacks, whatever one of them raises.

    rclpy raises out of `spin` what a callback raises: so whoever asks for a transition that the state does not have
    would end the process (seen in Jazzy's; Humble's code is the same).
    """
    while node.context.ok() and _served(node, executor):
        pass


def _served(node: ServingNode, executor: MultiThreadedExecutor) -> bool:
    try:
        executor.spin_once()
    except (KeyboardInterrupt, ExternalShutdownException):
        return False
    except Exception as error:  # a node outlives what others ask of it, and says so
        node.get_logger().error(f"{type(error).__name__}: {error}")
    return True
