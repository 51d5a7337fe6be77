"""A node's place on the network: its readers and writers, and what `ros2 node` is told of them."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from avcompress.spec import EngineError
from ros_nodes.bag.library import typestore
from ros_nodes.qos import LATCHED, Qos, Wanted
from ros_nodes.wire.dds_qos import dds_qos
from ros_nodes.wire.graph import ENTITIES, TOPIC, entities, graph_store
from ros_nodes.wire.library import require_cyclonedds
from ros_nodes.wire.peers import resolved
from ros_nodes.wire.settings import Network, configuration
from ros_nodes.wire.types import encoded_type

if TYPE_CHECKING:
    from cyclonedds.domain import Domain
    from cyclonedds.pub import DataWriter
    from cyclonedds.sub import DataReader
    from rosbags.typesys.store import Typestore

_LAST_DOMAIN = 230


class Participant:
    """Makes endpoints of a node until it is closed, and keeps the graph of `ros_discovery_info` right; from any thread.

    Raises MissingError without `cyclonedds`, and for a peer whose name this machine does not know; EngineError where
    the network cannot be joined.
    """

    def __init__(self, node: str, network: Network) -> None:
        require_cyclonedds()
        from cyclonedds.domain import DomainParticipant
        from cyclonedds.qos import Policy
        from cyclonedds.qos import Qos as Dds

        self._node, self._lock = node, threading.Lock()
        self._domain = _open_domain(network)
        self.dds = DomainParticipant(self._domain._id, Dds(Policy.Userdata(b"enclave=/;")))
        self._endpoints: list[DataReader[Any] | DataWriter[Any]] = []
        self._distro = network.distro
        self._graph = self._make_writer(TOPIC, ENTITIES, LATCHED, store=graph_store(network.distro))
        self._tell()

    def close(self) -> None:
        """Leave the network: its endpoints end with it, whoever still has a reference to them."""
        # Cyclone's objects delete what is theirs when the last reference goes, but those of a cycle never do: by the
        # time that they are collected, its own table of weak references has forgotten them.
        self._domain.__del__()

    def writer(self, name: str, message: str, qos: Qos, user_data: str = "", store: Typestore | None = None) -> Writer:
        """A writer of a DDS topic; `user_data`: besides the hash of its type."""
        writer = self._make_writer(name, message, qos, user_data, store)
        self._add(writer.dds)
        return writer

    def reader(
        self, name: str, message: str, qos: Wanted, user_data: str = "", store: Typestore | None = None
    ) -> DataReader[Any]:
        """A reader of a DDS topic, whose samples have their bytes as `data`."""
        from cyclonedds.sub import DataReader
        from cyclonedds.topic import Topic

        store = store or typestore()
        topic = Topic(self.dds, name, encoded_type(message, store))
        reader = DataReader(self.dds, topic, dds_qos(qos, user_data + _type_hash(message, store)))
        self._add(reader)
        return reader

    def _make_writer(
        self, name: str, message: str, qos: Qos, user_data: str = "", store: Typestore | None = None
    ) -> Writer:
        from cyclonedds.pub import DataWriter
        from cyclonedds.topic import Topic

        store = store or typestore()
        kind = encoded_type(message, store)
        topic = Topic(self.dds, name, kind)
        made = dds_qos(qos, user_data + _type_hash(message, store), is_writer=True)
        return Writer(DataWriter(self.dds, topic, made), kind)

    def forget(self, *endpoints: DataReader[Any] | DataWriter[Any]) -> None:
        """Take endpoints out of the graph; they end with the last reference to them."""
        with self._lock:
            self._endpoints = [one for one in self._endpoints if not any(one is gone for gone in endpoints)]
        self._tell()

    def _add(self, endpoint: DataReader[Any] | DataWriter[Any]) -> None:
        with self._lock:
            self._endpoints.append(endpoint)
        self._tell()

    def _tell(self) -> None:
        """Say which endpoints are this node's."""
        from cyclonedds.sub import DataReader

        with self._lock:
            readers = [one.guid.bytes for one in self._endpoints if isinstance(one, DataReader)]
            writers = [one.guid.bytes for one in self._endpoints if not isinstance(one, DataReader)]
            self._graph.write(entities(self._distro, self.dds.guid.bytes, self._node, readers, writers))


class Writer:
    """Sends bytes of one type."""

    def __init__(self, dds: DataWriter[Any], kind: Any) -> None:
        self.dds, self._kind = dds, kind

    def write(self, data: bytes) -> None:
        """Send a message, encoded; raises DDSException as Cyclone does."""
        self.dds.write(self._kind(data))


def _type_hash(message: str, store: Typestore) -> str:
    return f"typehash={store.hash_rihs01(message)};"


def _open_domain(network: Network) -> Domain:
    """One of its own: Cyclone has one configuration for each domain of a process; the number on the network differs.

    Raises MissingError for a peer whose name nobody knows: Cyclone itself would end the process.
    """
    network = network.model_copy(update={"peers": resolved(network.peers)})
    for number in range(_LAST_DOMAIN + 1):
        domain = _try_domain(number, network)
        if domain is not None:
            return domain
    raise EngineError(f"network: expected fewer than {_LAST_DOMAIN} participants in a process, got more; close some")


def _try_domain(number: int, network: Network) -> Domain | None:
    """None where this process has a domain of that number already."""
    from cyclonedds.core import DDSException
    from cyclonedds.domain import Domain

    try:
        return Domain(number, configuration(network))
    except DDSException as error:
        if error.code == DDSException.DDS_RETCODE_PRECONDITION_NOT_MET:
            return None
        raise EngineError(
            f"network: expected to join domain {network.domain} on {network.interface or 'any interface'}, got: "
            f"{error}; check the interface and CYCLONEDDS_URI"
        ) from error
