"""Peers: what Cyclone DDS would end the process for does not reach it."""

import socket
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from avcompress.spec import MissingError
from ros_nodes.wire.peers import resolved
from ros_nodes.wire.settings import Network

NO_PEERS = ("", "a b", "::1", "[::1]", "127.0.0.1:0", "127.0.0.1:", "127.0.0.1:99999", "300.1.1.1", "127.1", "1")
NO_PEERS += ("0.0.0.7", "a,b", "udp/127.0.0.1", "é.de", "a\x01b", "$HOME")


@pytest.mark.parametrize("peer", NO_PEERS)
def test_what_is_no_peer_is_refused(peer):
    with pytest.raises(ValidationError, match="expected an IPv4 address or a name, and perhaps a port, got"):
        Network(peers=(peer,))


def test_names_become_addresses_and_ports_stay():
    peers = Network(peers=("localhost", "localhost:7400", "192.168.1.7", "10.0.0.1:65535")).peers
    assert resolved(peers) == ("127.0.0.1", "127.0.0.1:7400", "192.168.1.7", "10.0.0.1:65535")


def test_a_name_that_nobody_knows_is_something_that_the_machine_lacks():
    with pytest.raises(MissingError, match=r"^peer no\.such\.invalid:7400: expected a name .*; check the name, add it"):
        resolved(("no.such.invalid:7400",))


def test_a_name_of_no_address_that_one_may_send_to_is_refused(monkeypatch):
    found = [(socket.AF_INET, socket.SOCK_DGRAM, 17, "", ("0.0.0.7", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: found)
    with pytest.raises(MissingError, match=r"got: the address 0\.0\.0\.7"):
        resolved(("blocked.example",))


@given(st.one_of(st.text(max_size=8), st.from_regex(r"\A[0-9.:]{0,12}\Z")))
def test_what_is_let_through_is_a_name_or_an_address_of_four_numbers(text):
    try:
        Network(peers=(text,))
    except ValidationError:
        return
    host = text.partition(":")[0]
    assert host.isascii()
    if not any(letter.isalpha() or letter in "_-" for letter in host):
        assert socket.inet_ntoa(socket.inet_pton(socket.AF_INET, host)) == host
        assert not host.startswith("0.")


@pytest.mark.parametrize("field", ["interface", "tag"])
@pytest.mark.parametrize("text", ["é", "a\x01", "${HOME}"])
def test_what_cyclone_would_read_as_something_else_is_refused(field, text):
    with pytest.raises(ValidationError, match="expected printable ASCII without `\\$`"):
        Network(**{field: text})


def test_cyclone_takes_what_is_let_through():
    pytest.importorskip("cyclonedds", reason="needs cyclonedds: pip install avcompress[wire]")
    code = (
        "from ros_nodes.wire.participant import Participant\n"
        "from ros_nodes.wire.settings import Network\n"
        "peers = ('localhost', 'localhost:7400', '127.0.0.1:65535', '127.255.255.254')\n"
        "Participant('x', Network(interface='lo', domain=77, peers=peers, tag='a<b>&c'))\n"
        "print('joined')"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (found.returncode, found.stdout) == (0, "joined\n"), found.stderr
