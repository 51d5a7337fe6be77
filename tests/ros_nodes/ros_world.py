"""A managed node that spins in threads of its own, and a foreign one that talks to it; imports rclpy."""

import os
import threading
import time

import rclpy
from rclpy.context import Context
from rclpy.executors import MultiThreadedExecutor, SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import QoSDurabilityPolicy, QoSProfile, QoSReliabilityPolicy

from ros_nodes.messages.outgoing import frame_message
from ros_nodes.rclpy_node.library import RclpyLibrary, message_type
from ros_nodes.rclpy_node.main import spin
from ros_nodes.rclpy_node.node import ServingNode

PATIENCE_S = 20.0
TRANSITIONS = {"configure": 1, "cleanup": 2, "activate": 3, "deactivate": 4, "shutdown": 5}
LIBRARY = RclpyLibrary()


def image_message(frame):
    """A frame of ours as ROS's own message."""
    return frame_message(frame, LIBRARY)


def until(is_so, what, patience_s=PATIENCE_S):
    end = time.monotonic() + patience_s
    while not is_so():
        assert time.monotonic() < end, f"waited {patience_s} s for {what}"
        time.sleep(0.01)


def _start(target, *args):
    thread = threading.Thread(target=target, args=args, daemon=True)
    thread.start()
    return thread


class World:
    """Both nodes, in a domain of this process; within a `with` block.

    Attributes:
        heard: messages by topic, of those that `listen` was asked for.
    """

    def __init__(self, load=None, name="vision", **parameters):
        self.context = Context()
        rclpy.init(args=[], context=self.context, domain_id=1 + os.getpid() % 100)
        self.heard, self._publishers = {}, {}
        overrides = [Parameter(key.replace("__", "."), value=value) for key, value in parameters.items()]
        self.name, self.node, self._ended = name, None, threading.Event()
        if load is not None:
            self.node = ServingNode(name, load, context=self.context, parameter_overrides=overrides)
            executor = MultiThreadedExecutor(4, context=self.context)
            executor.add_node(self.node)
            self._node_thread = _start(spin, self.node, executor)
        self.foreign = rclpy.create_node("foreign", context=self.context)
        executor = SingleThreadedExecutor(context=self.context)
        executor.add_node(self.foreign)
        self._foreign_thread = _start(self._spin_foreign, executor)

    def _spin_foreign(self, executor):
        while not self._ended.wait(0):
            executor.spin_once(timeout_sec=0.1)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.node is not None:
            self.node._threads.close()
        self._ended.set()
        self._foreign_thread.join(5)
        rclpy.shutdown(context=self.context)
        if self.node is not None:
            self._node_thread.join(5)
        if self.node is not None:
            self.node.destroy_node()
        self.foreign.destroy_node()

    # --- services

    def call(self, kind, service, patience_s=PATIENCE_S, **fields):
        package, name = kind.split("/")
        module = __import__(f"{package}.srv", fromlist=[name])
        client = self.foreign.create_client(getattr(module, name), f"/{self.name}/{service}")
        assert client.wait_for_service(timeout_sec=patience_s), service
        future = client.call_async(getattr(module, name).Request(**fields))
        until(future.done, f"an answer of {service}", patience_s)
        self.foreign.destroy_client(client)
        return future.result()

    @property
    def state(self):
        return self.call("lifecycle_msgs/GetState", "get_state").current_state.label

    def change(self, transition, patience_s=PATIENCE_S):
        from lifecycle_msgs.msg import Transition

        number = TRANSITIONS.get(transition, transition)
        request = Transition(id=number)
        return self.call("lifecycle_msgs/ChangeState", "change_state", patience_s, transition=request).success

    def start(self):
        assert self.change("configure")
        assert self.change("activate")
        return self

    def set(self, name, value):
        """Whether it was set, and why not."""
        message = Parameter(name, value=value).to_parameter_msg()
        (result,) = self.call("rcl_interfaces/SetParameters", "set_parameters", parameters=[message]).results
        return result.successful, result.reason

    def describe(self, name):
        (found,) = self.call("rcl_interfaces/DescribeParameters", "describe_parameters", names=[name]).descriptors
        return found

    # --- topics

    def listen(self, topic, kind, note=None, latched=False, **qos):
        """Hear a topic; hands back the list that its messages come into."""
        heard = self.heard.setdefault(topic, [])
        durability = QoSDurabilityPolicy.TRANSIENT_LOCAL if latched else QoSDurabilityPolicy.VOLATILE
        profile = QoSProfile(depth=50, durability=durability, reliability=QoSReliabilityPolicy.RELIABLE, **qos)
        self.foreign.create_subscription(message_type(kind), topic, note or heard.append, profile)
        return heard

    def advertise(self, topic, kind, **qos):
        """A publisher as a camera's driver has, best effort; waits until the node hears it."""
        profile = QoSProfile(depth=5, **{"reliability": QoSReliabilityPolicy.BEST_EFFORT, **qos})
        publisher = self._publishers[topic] = self.foreign.create_publisher(message_type(kind), topic, profile)
        return publisher

    def send(self, topic, frame):
        message = image_message(frame)
        if topic not in self._publishers:
            kind = "CompressedImage" if hasattr(frame, "format") else "Image"
            publisher = self.advertise(topic, f"sensor_msgs/msg/{kind}")
            until(lambda: publisher.get_subscription_count() > 0, f"a subscriber of {topic}")
            time.sleep(0.2)  # the other side may know a little later
        self._publishers[topic].publish(message)

    def statuses(self):
        """The last of each name: (level, message, values)."""
        found = {}
        for message in self.heard["/diagnostics"]:
            for status in message.status:
                name = status.name.removeprefix(f"{self.name}: ")
                values = {value.key: value.value for value in status.values}
                found[name] = (int.from_bytes(status.level, "little"), status.message, values)
        return found
