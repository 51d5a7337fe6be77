"""The other side of the wire: cameras and a listener, as foreign nodes on this machine's loopback would be."""

import io
import os
import time
import uuid

import numpy as np
from PIL import Image

from calibration.frame import CompressedImage, RawImage, to_rgb
from ros_nodes.bag.library import RosbagsLibrary, encode, typestore
from ros_nodes.messages.outgoing import frame_message
from ros_nodes.qos import DIAGNOSTICS, LATCHED, Qos
from ros_nodes.topics import image_type
from ros_nodes.wire.ear import Ear
from ros_nodes.wire.names import reply_name, request_name, topic_name
from ros_nodes.wire.participant import Participant
from ros_nodes.wire.services import service_store
from ros_nodes.wire.settings import Network

PATIENCE_S = 60.0
ROOMY = Qos(reliability="reliable", depth=100)


def lonely() -> Network:
    """A network that nobody else on this machine is on; lo needs no multicast."""
    return Network(interface="lo", domain=os.getpid() % 200, tag=uuid.uuid4().hex)


def until(condition, what, patience_s=PATIENCE_S):
    """Wait for something that happens elsewhere, and hand it back."""
    end = time.monotonic() + patience_s
    while not (found := condition()):
        assert time.monotonic() < end, f"waited {patience_s} s for {what}"
        time.sleep(0.002)
    return found


def image_bytes(frame) -> bytes:
    """A frame as a camera's driver sends it."""
    return encode(frame_message(frame, RosbagsLibrary()))


def as_file(frame):
    """A raw image as a PNG of the same pixels: a topic carries one type of message."""
    if not isinstance(frame, RawImage):
        return frame
    out = io.BytesIO()
    Image.fromarray(to_rgb(frame)).save(out, "PNG")
    return CompressedImage(frame.header, "png", np.frombuffer(out.getvalue(), np.uint8))


class Camera:
    """A driver that publishes on one topic."""

    def __init__(self, topic, network, qos=ROOMY, node="camera"):
        self.topic, self.participant = topic, Participant(node, network)
        self.writer = self.participant.writer(topic_name(topic), image_type(topic), qos)

    def listeners(self):
        """Those that it has met."""
        return set(self.writer.dds.get_matched_subscriptions())

    def await_listener(self, beside=frozenset()):
        """Wait until it has met one that is not known already."""
        until(lambda: self.listeners() - beside, f"a subscriber of {self.topic}")
        return self

    def send(self, frame):
        self.send_bytes(image_bytes(frame))

    def send_bytes(self, data):
        self.writer.write(data)


class Listener:
    """Keeps what comes on topics, decoded: [(topic, message)] in the order of its coming."""

    def __init__(self, network, topics, node="listener"):
        self.participant, self.heard, self.errors = Participant(node, network), [], []
        self.readers = {}
        hear = {}
        for topic, (message, qos) in topics.items():
            reader = self.readers[topic] = self.participant.reader(topic_name(topic), message, qos)
            hear[reader] = lambda data, topic=topic, message=message: self.heard.append(
                (topic, typestore().deserialize_cdr(data, message))
            )
        self.ear = Ear(self.participant, hear, lambda *error: self.errors.append(error), "listener")

    def await_publishers(self, *topics):
        """Wait until somebody publishes on every one of them."""
        for topic in topics:
            until(self.readers[topic].get_matched_publications, f"a publisher of {topic}")
        return self

    def await_results(self, cameras, node="vision"):
        """Wait until a node publishes boxes, or masks, of every camera, and diagnostics, and has met this listener.

        That a reader knows a writer does not say that this knows it, too, and sends it anything. A node hears of
        readers in the order of their making: who gets what the last one is for has all the others' results to come.
        """
        for camera in cameras:
            readers = [self.readers[f"/{node}/{camera}/{name}"] for name in RESULTS]
            until(lambda r=readers: any(one.get_matched_publications() for one in r), f"results of {camera}")
        self.await_publishers("/diagnostics")
        for info in ("vision_info", "label_info"):
            until(lambda i=info: self.on(f"/{node}/{i}"), f"{node}'s {info}")
        return self

    def on(self, topic):
        return [message for at, message in list(self.heard) if at == topic]

    def statuses(self, node="vision"):
        """The last of each name: (level, message, values)."""
        return {
            status.name.removeprefix(f"{node}: "): (
                status.level,
                status.message,
                {v.key: v.value for v in status.values},
            )
            for message in self.on("/diagnostics")
            for status in message.status
        }

    def close(self):
        ear, self.ear = self.ear, None
        if ear is not None:
            ear.close()
            self.participant.close()


RESULTS = {"detections": "vision_msgs/msg/Detection2DArray", "mask": "sensor_msgs/msg/Image"}


def node_topics(cameras, node="vision"):
    """What a listener of a node hears: topic -> (message, qos); last, what it gets for having met the node."""
    return {
        "/diagnostics": ("diagnostic_msgs/msg/DiagnosticArray", DIAGNOSTICS),
        f"/{node}/label_info": ("vision_msgs/msg/LabelInfo", LATCHED),
        **{f"/{node}/{camera}/{name}": (message, ROOMY) for camera in cameras for name, message in RESULTS.items()},
        f"/{node}/vision_info": ("vision_msgs/msg/VisionInfo", LATCHED),
    }


class Client:
    """A client of a node's service, as rmw_cyclonedds has them: its own {guid, sequence number} before the request."""

    def __init__(self, network, service, kind, node="vision"):
        self.store, self.kind = service_store(), f"lifecycle_msgs/srv/{kind}"
        self.participant, self.replies, self.sequence = Participant("client", network), [], 0
        self.guid = os.urandom(8)
        name = f"/{node}/{service}"
        self.reader = self.participant.reader(reply_name(name), f"{self.kind}_Response", ROOMY, store=self.store)
        self.writer = self.participant.writer(request_name(name), f"{self.kind}_Request", ROOMY, store=self.store)
        self.ear = Ear(self.participant, {self.reader: self.replies.append}, print, "client")

    def call(self, **fields):
        """The response's message."""
        until(self.writer.dds.get_matched_subscriptions, f"the service {self.kind}")
        self.sequence += 1
        fields = fields or {"structure_needs_at_least_one_member": 0}
        request = self.store.types[f"{self.kind}_Request"](**fields)
        encoded = bytes(self.store.serialize_cdr(request, f"{self.kind}_Request"))
        header = self.guid + self.sequence.to_bytes(8, "little")
        self.writer.write(encoded[:4] + header + encoded[4:])
        reply = until(lambda: [one for one in self.replies if one[4:20] == header], f"an answer of {self.kind}")[0]
        return self.store.deserialize_cdr(reply[:4] + reply[20:], f"{self.kind}_Response")

    def change(self, label="", number=0):
        """Whether a transition that was asked for succeeded."""
        transition = self.store.types["lifecycle_msgs/msg/Transition"](id=number, label=label)
        return self.call(transition=transition).success

    def close(self):
        self.ear.close()
        self.participant.close()
