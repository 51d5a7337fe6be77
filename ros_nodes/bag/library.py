"""Messages as rosbags makes and encodes them: CDR and type hashes as ROS 2 has them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from avcompress.spec import MissingError
from ros_nodes.messages.definitions import VISION_MSGS
from ros_nodes.messages.outgoing import Message

if TYPE_CHECKING:
    from rosbags.typesys.store import Typestore


@cache
def typestore() -> Typestore:
    """The types of ROS 2 Humble, which those of Jazzy equal as far as we use them, and vision_msgs.

    Raises MissingError without `rosbags`.
    """
    try:
        from rosbags.typesys import Stores, get_types_from_msg, get_typestore
    except ImportError as error:
        raise MissingError(
            'bag: expected the package rosbags, got nothing of that name; pip install "avcompress[ros]"'
        ) from error
    store = get_typestore(Stores.ROS2_HUMBLE)
    types: dict[str, Any] = {}
    for name, text in VISION_MSGS.items():
        types |= get_types_from_msg(text, name)
    store.register(types)
    return store


class RosbagsLibrary:
    """Makes messages of rosbags' classes; see ros_nodes.messages.outgoing.Library."""

    def __init__(self) -> None:
        self._types: Mapping[str, Any] = typestore().types

    def make(self, name: str, /, **fields: object) -> Message:
        """A message by its name."""
        return self._types[name](**fields)

    def octets(self, data: NDArray[np.uint8]) -> object:
        """As it is."""
        return data

    def octet(self, value: int) -> object:
        """As it is."""
        return value


def encode(message: Message) -> bytes:
    """A message as CDR, little-endian, with its four bytes of header."""
    return bytes(typestore().serialize_cdr(message, message.__msgtype__))
