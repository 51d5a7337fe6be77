"""The parameters of a node, as ROS declares and describes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor

from ros_nodes.parameters import Parameter, Value, parameters

if TYPE_CHECKING:
    from rclpy.node import Node


def declare(node: Node) -> None:
    """Declare every parameter; raises rclpy's own error for a value of another type, or out of its range."""
    node.declare_parameters(
        "", [(parameter.name, parameter.default, descriptor(parameter)) for parameter in parameters()]
    )


def values(node: Node) -> dict[str, Value]:
    """What they are now."""
    return {parameter.name: node.get_parameter(parameter.name).value for parameter in parameters()}


def descriptor(parameter: Parameter) -> ParameterDescriptor:
    """What `ros2 param describe` shows, and rclpy checks."""
    described = ParameterDescriptor(
        description=parameter.description,
        read_only=parameter.read_only,
        additional_constraints=f"one of {', '.join(parameter.choices)}" if parameter.choices else "",
    )
    if parameter.range is not None:
        low, high = parameter.range
        if parameter.kind == "integer":
            described.integer_range = [IntegerRange(from_value=int(low), to_value=int(high), step=1)]
        else:
            described.floating_point_range = [FloatingPointRange(from_value=float(low), to_value=float(high), step=0.0)]
    return described
