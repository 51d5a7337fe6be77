"""What ROS 2 nodes tell each other of their endpoints, on `ros_discovery_info`. Source: rmw_dds_common 3.1."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from rosbags.typesys.store import Typestore

Distro = Literal["humble", "jazzy"]

TOPIC = "ros_discovery_info"
ENTITIES = "rmw_dds_common/msg/ParticipantEntitiesInfo"
_GID, _NODE = "rmw_dds_common/msg/Gid", "rmw_dds_common/msg/NodeEntitiesInfo"
_GUID_BYTES = 16
_GID_BYTES: dict[Distro, int] = {"humble": 24, "jazzy": 16}


@cache
def graph_store(distro: Distro) -> Typestore:
    """The types of a release: identifiers have been shorter since Iron."""
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    store = get_typestore(Stores.EMPTY)
    # `char` in the original, which is an octet; rosbags has another hash for it.
    definitions = {
        _GID: f"uint8[{_GID_BYTES[distro]}] data\n",
        _NODE: "string<=256 node_namespace\nstring<=256 node_name\nGid[] reader_gid_seq\nGid[] writer_gid_seq\n",
        ENTITIES: "Gid gid\nNodeEntitiesInfo[] node_entities_info_seq\n",
    }
    types: dict[str, Any] = {}
    for name, text in definitions.items():
        types |= get_types_from_msg(text, name)
    store.register(types)
    return store


def entities(
    distro: Distro, participant: bytes, node: str, readers: Iterable[bytes], writers: Iterable[bytes]
) -> bytes:
    """One node's endpoints by their identifiers of 16 bytes, encoded."""
    store = graph_store(distro)

    def gid(guid: bytes) -> Any:
        data = np.zeros(_GID_BYTES[distro], np.uint8)
        data[:_GUID_BYTES] = np.frombuffer(guid, np.uint8)
        return store.types[_GID](data=data)

    told = store.types[_NODE](
        node_namespace="/",
        node_name=node,
        reader_gid_seq=[gid(guid) for guid in readers],
        writer_gid_seq=[gid(guid) for guid in writers],
    )
    message = store.types[ENTITIES](gid=gid(participant), node_entities_info_seq=[told])
    return bytes(store.serialize_cdr(message, ENTITIES))
