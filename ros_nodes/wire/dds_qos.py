"""Quality of service as Cyclone takes it, with what ROS 2's middleware adds. Source: rmw_cyclonedds, rmw_node.cpp."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ros_nodes.core.settings import MS
from ros_nodes.qos import Qos, Wanted

if TYPE_CHECKING:
    from cyclonedds.qos import Qos as DdsQos

_FOREVER_NS = (1 << 63) - 1


def dds_qos(qos: Wanted, user_data: str = "", is_writer: bool = False) -> DdsQos:
    """Of a reader, or a writer, which alone has a lifespan; `user_data` is what ROS 2 tells of itself by key=value;."""
    from cyclonedds.qos import Policy
    from cyclonedds.qos import Qos as Dds

    history = Policy.History.KeepLast(qos.depth)
    is_reliable, is_latched = qos.reliability == "reliable", qos.durability == "transient_local"
    policies: list[Any] = [
        Policy.Reliability.Reliable(_FOREVER_NS) if is_reliable else Policy.Reliability.BestEffort,
        Policy.Durability.TransientLocal if is_latched else Policy.Durability.Volatile,
        history,
        Policy.DataRepresentation(use_cdrv0_representation=True),
        Policy.Userdata(user_data.encode()),
    ]
    if qos.deadline_ms is not None:
        policies.append(Policy.Deadline(round(qos.deadline_ms * MS)))
    if is_writer:
        policies.append(Policy.WriterDataLifecycle(autodispose=False))
        if isinstance(qos, Qos) and qos.lifespan_ms is not None:
            policies.append(Policy.Lifespan(round(qos.lifespan_ms * MS)))
        if is_latched:
            # Cyclone keeps for those that come later what this policy says, not the history.
            policies.append(Policy.DurabilityService(0, history, -1, -1, -1))
    return Dds(*policies)
