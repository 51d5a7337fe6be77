"""Where to look for nodes that multicast does not reach: told by people, and looked up before Cyclone DDS sees it.

Cyclone ends the process, by a signal, for an address that it cannot make anything of.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from typing import Annotated

from pydantic import AfterValidator

from avcompress.spec import MissingError

_PEER = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_.-]*)(?::([0-9]{1,5}))?")
_LARGEST_PORT = 65535
# IPv6 is a transport of its own in Cyclone.
_ADVICE = "such as 192.168.1.7, camera.local or camera.local:7410; peers of IPv6 go into CYCLONEDDS_URI"


def _peer(text: str) -> str:
    found = _PEER.fullmatch(text)
    port = int(found[2]) if found and found[2] else 1
    if found is None or not 0 < port <= _LARGEST_PORT or not _is_host(found[1]):
        raise ValueError(f"expected an IPv4 address or a name, and perhaps a port, got {text!r}; {_ADVICE}")
    return text


Peer = Annotated[str, AfterValidator(_peer)]
"""HOST or HOST:PORT."""


def _is_host(host: str) -> bool:
    """Whether it is a name, or else an address that one may send to."""
    # Resolvers take `1` and `127.1` for addresses, too.
    if not re.fullmatch(r"[0-9.]+", host):
        return True
    try:
        return not _is_nowhere(host)
    except ValueError:
        return False


def _is_nowhere(address: str) -> bool:
    """Whether it is one of 0.0.0.0/8, for which Cyclone crashes."""
    return ipaddress.IPv4Address(address).packed[0] == 0


def resolved(peers: tuple[str, ...]) -> tuple[str, ...]:
    """The same with addresses in the place of names; raises MissingError for a name that this machine has none for."""
    return tuple(map(_resolved, peers))


def _resolved(peer: str) -> str:
    host, colon, port = peer.partition(":")
    try:
        found = socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_DGRAM)
        address = str(found[0][-1][0])
        problem = f"the address {address}" if _is_nowhere(address) else ""
    except (OSError, UnicodeError) as error:
        problem = getattr(error, "strerror", None) or "none"
    if problem:
        raise MissingError(
            f"peer {peer}: expected a name that this machine knows an IPv4 address of, got: {problem}; check the name, "
            "add it to the name service or /etc/hosts, or give the address"
        )
    return f"{address}{colon}{port}"
