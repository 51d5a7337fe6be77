import numpy as np
import pytest

from ros_nodes.wire.graph import ENTITIES, graph_store
from ros_nodes.wire.names import reply_name, request_name, topic_name, type_name
from ros_nodes.wire.services import service_store
from ros_nodes.wire.settings import Network, configuration

GRAPH_HASH = "RIHS01_91a0593bacdcc50ea9bdcf849a938b128412cc1ea821245c663bcd26f83c295e"
HASHES = {
    "GetState_Request": "77a9c844",
    "GetState_Response": "fe249bab",
    "ChangeState_Request": "d74c6f52",
    "ChangeState_Response": "e1ddfed0",
    "GetAvailableStates_Request": "c2c0c12d",
    "GetAvailableStates_Response": "223e0dd5",
    "GetAvailableTransitions_Request": "52a73c0b",
    "GetAvailableTransitions_Response": "47113394",
}


def test_names_are_mangled_as_ros_2_does():
    assert topic_name("/front/image_raw") == "rt/front/image_raw"
    assert request_name("/vision/get_state") == "rq/vision/get_stateRequest"
    assert reply_name("/vision/get_state") == "rr/vision/get_stateReply"
    assert type_name("sensor_msgs/msg/Image") == "sensor_msgs::msg::dds_::Image_"
    assert type_name("lifecycle_msgs/srv/GetState_Request") == "lifecycle_msgs::srv::dds_::GetState_Request_"


def test_on_the_loopback_nodes_meet_without_multicast(monkeypatch):
    monkeypatch.delenv("CYCLONEDDS_URI", raising=False)
    found = configuration(Network(interface="lo", domain=7))
    assert '<NetworkInterface name="lo" multicast="false"/>' in found
    assert '<Peer address="127.0.0.1"/>' in found
    assert "<ExternalDomainId>7</ExternalDomainId>" in found
    assert "multicast" not in configuration(Network(interface="eth0"))


def test_names_from_outside_stay_text_in_the_configuration():
    assert "<x/>" not in configuration(Network(interface='"/><x/>', tag="<x/>"))


def test_the_user_s_own_configuration_comes_last_and_wins(monkeypatch):
    monkeypatch.setenv("CYCLONEDDS_URI", "file:///cyclone.xml")
    assert configuration(Network()).endswith("</CycloneDDS>,file:///cyclone.xml")


@pytest.mark.parametrize(("distro", "size"), [("humble", 24), ("jazzy", 16)])
def test_the_graph_names_the_node_with_its_readers_and_writers(wire_rig, distro, size):
    from ros_nodes.qos import LATCHED, Qos
    from ros_nodes.wire.ear import Ear
    from ros_nodes.wire.participant import Participant

    network, kind, store = wire_rig.lonely(), ENTITIES, graph_store(distro)
    node = Participant("vision", network.model_copy(update={"distro": distro}))
    writer = node.writer("rt/x", "std_msgs/msg/Float64", Qos())
    reader = node.reader("rt/y", "std_msgs/msg/Float64", Qos())

    other, told = Participant("other", network), []
    ears = other.reader("ros_discovery_info", kind, LATCHED.model_copy(update={"depth": 10}), store=store)
    ear = Ear(other, {ears: lambda data: told.append(store.deserialize_cdr(data, kind))}, print, "test")

    def entities():
        nodes = [info.node_entities_info_seq[0] for info in told if info.gid.data[:16].tobytes() == node.dds.guid.bytes]
        return nodes and nodes[-1].reader_gid_seq and nodes[-1]

    seen = wire_rig.until(entities, "the graph")
    assert (seen.node_namespace, seen.node_name) == ("/", "vision")
    for (gid,), entity in ((seen.reader_gid_seq, reader), (seen.writer_gid_seq, writer.dds)):
        assert gid.data.tobytes() == entity.guid.bytes + bytes(size - 16)
        assert gid.data.dtype == np.uint8

    node.forget(reader)
    wire_rig.until(lambda: not told[-1].node_entities_info_seq[0].reader_gid_seq, "the graph without the reader")
    ear.close()


def test_hashes_of_types_are_those_of_jazzy():
    # Source: the .json files that ros-jazzy-lifecycle-msgs 2.0.3 and ros-jazzy-rmw-dds-common 3.1.0 install.
    assert graph_store("jazzy").hash_rihs01(ENTITIES) == GRAPH_HASH
    hashes = {kind: service_store().hash_rihs01(f"lifecycle_msgs/srv/{kind}")[7:15] for kind in HASHES}
    assert hashes == HASHES


def test_endpoints_say_the_hash_of_their_type_and_the_participant_its_enclave(wire_rig):
    from cyclonedds.builtin import BuiltinDataReader, BuiltinTopicDcpsParticipant, BuiltinTopicDcpsPublication
    from cyclonedds.qos import Policy

    from ros_nodes.qos import Qos
    from ros_nodes.wire.participant import Participant

    network = wire_rig.lonely()
    node, other = Participant("vision", network), Participant("other", network)
    node.writer("rt/x", "sensor_msgs/msg/Image", Qos())
    publications = BuiltinDataReader(other.dds, BuiltinTopicDcpsPublication)
    participants = BuiltinDataReader(other.dds, BuiltinTopicDcpsParticipant)

    def user_data(reader, matches):
        found = [one.qos[Policy.Userdata].data for one in reader.read(100) if matches(one)]
        return found and found[0]

    image = wire_rig.until(lambda: user_data(publications, lambda p: p.topic_name == "rt/x"), "the publication")
    # Source: sensor_msgs/msg/Image.json of ROS 2 Jazzy.
    assert image == b"typehash=RIHS01_d31d41a9a4c4bc8eae9be757b0beed306564f7526c88ea6a4588fb9582527d47;"
    assert wire_rig.until(lambda: user_data(participants, lambda p: p.key == node.dds.guid), "it") == b"enclave=/;"
