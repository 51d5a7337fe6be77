"""Messages of an installed ROS."""

from __future__ import annotations

import array
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ros_nodes.messages.outgoing import Message


@cache
def message_type(name: str) -> type[Any]:
    """The class of a message, by its full name, such as std_msgs/msg/Header."""
    package, kind, simple = name.split("/")
    found: type[Any] = getattr(import_module(f"{package}.{kind}"), simple)
    return found


class RclpyLibrary:
    """Makes messages of ROS's own classes; see ros_nodes.messages.outgoing.Library."""

    def make(self, name: str, /, **fields: object) -> Message:
        """A message by its name."""
        return message_type(name)(**fields)

    def octets(self, data: NDArray[np.uint8]) -> object:
        """What rclpy takes without a look at every byte: half a second, for an ndarray of 1920x1080."""
        octets = array.array("B")
        octets.frombytes(np.ascontiguousarray(data))  # type: ignore[arg-type]  # any buffer will do
        return octets

    def octet(self, value: int) -> object:
        """A `byte` is bytes of length one in Python."""
        return bytes([value])
