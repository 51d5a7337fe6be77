"""Where on the network a node is, and Cyclone DDS's configuration for that."""

from __future__ import annotations

import os
from typing import Annotated
from xml.sax.saxutils import escape, quoteattr

from pydantic import AfterValidator, Field

from avcompress.frozen import Model
from ros_nodes.wire.graph import Distro
from ros_nodes.wire.peers import Peer

LOOPBACK = "lo"


def _plain(text: str) -> str:
    # Cyclone takes ASCII, drops what does not print, and puts variables of the environment in the place of ${NAME}.
    if not (text.isascii() and text.isprintable()) or "$" in text:
        raise ValueError(f"expected printable ASCII without `$`, got {text!r}; give another name")
    return text


def _named(text: str) -> str:
    if not text:
        raise ValueError("expected the name of a network interface, got ''; `ip link` shows those of this machine")
    return _plain(text)


class Network(Model):
    """Which nodes a node meets."""

    domain: Annotated[int, Field(ge=0, le=230)] = Field(0, description="ROS_DOMAIN_ID")
    interface: Annotated[str, AfterValidator(_named)] | None = Field(
        None, description="network interface; `lo`: this machine only, without multicast; default: Cyclone's choice"
    )
    peers: tuple[Peer, ...] = Field(
        (), description="addresses or names to look for nodes at, where multicast does not reach"
    )
    tag: Annotated[str, AfterValidator(_plain)] = Field(
        "", description="only participants of the same discovery tag meet; ROS's own have none"
    )
    distro: Distro = Field(
        "jazzy", description="ROS 2 release of the other nodes, for `ros2 node`: how it writes identifiers"
    )


def configuration(network: Network) -> str:
    """The XML for Cyclone; a CYCLONEDDS_URI comes after it and wins.

    Large messages and buffers are what images need: with Cyclone's own sizes two of three images of 1920x1080 are lost.
    """
    is_local = network.interface == LOOPBACK
    peers = network.peers or (("127.0.0.1",) if is_local else ())
    general = "<MaxMessageSize>65500B</MaxMessageSize><FragmentSize>60000B</FragmentSize>"
    if network.interface is not None:
        multicast = ' multicast="false"' if is_local else ""
        general += f"<Interfaces><NetworkInterface name={quoteattr(network.interface)}{multicast}/></Interfaces>"
    discovery = f"<ExternalDomainId>{network.domain}</ExternalDomainId><ParticipantIndex>auto</ParticipantIndex>"
    if peers:
        addresses = "".join(f"<Peer address={quoteattr(peer)}/>" for peer in peers)
        discovery += f"<Peers>{addresses}</Peers>"
    if network.tag:
        discovery += f"<Tag>{escape(network.tag)}</Tag>"
    ours = (
        f'<CycloneDDS><Domain Id="any"><General>{general}</General><Discovery>{discovery}</Discovery>'
        '<Internal><SocketReceiveBufferSize max="4MB"/></Internal></Domain></CycloneDDS>'
    )
    return ",".join(filter(None, (ours, os.environ.get("CYCLONEDDS_URI", ""))))
