"""What launch files share: the arguments that all of them have, and the node that they start."""

import os

from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, OpaqueFunction, TimerAction
from launch_ros.actions import LifecycleNode
from launch_ros.ros_adapters import get_ros_node
from lifecycle_msgs.msg import State
from lifecycle_msgs.srv import GetState

PACKAGE = "avcompress_ros"
BUNDLE = {
    "bundle": ("", "folder of the bundle to serve"),
    "fallback": ("", "folder of the bundle to fall back to"),
}
COMMON = {
    "key": ("", "file of the public key that has signed the bundle"),
    "allow_unsigned": ("", "true: serve a bundle that nobody signed: whoever writes it runs code here"),
    "params_file": ("", "parameters of your own; arguments that are given go before them"),
    "namespace": ("", "before the names of nodes and topics"),
    "autostart": ("", "false: wait for a manager to configure and activate it"),
    "respawn": ("false", "start a node again that has ended"),
    "log_level": ("info", "debug, info, warn, error"),
}


def arguments(**more):
    """The arguments of a launch file: COMMON, and more of the form name=(default, description)."""
    return [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, (default, description) in {**more, **COMMON}.items()
    ]


def names(text):
    """`front, left` -> ['front', 'left']."""
    return [name.strip() for name in text.split(",") if name.strip()]


def is_true(text):
    """What `name:=true` says."""
    return text.strip().lower() in {"true", "1", "yes"}


def serving_node(context, name, defaults, **parameters):
    """A managed node; parameters that are empty were not given, and say nothing.

    What goes before what: `parameters`, the user's params_file, the file `defaults` of this package, avcompress.yaml.
    """
    said = context.launch_configurations
    given = {"keys": names(said["key"]), **{flag: said[flag] for flag in ("allow_unsigned", "autostart")}, **parameters}
    given = {key: value for key, value in given.items() if value not in ("", [])}
    given |= {flag: is_true(given[flag]) for flag in ("allow_unsigned", "autostart") if flag in given}
    config = os.path.join(get_package_share_directory(PACKAGE), "config")
    files = [os.path.join(config, "avcompress.yaml"), os.path.join(config, defaults), said["params_file"]]
    return LifecycleNode(
        package=PACKAGE,
        executable="node",
        name=name,
        namespace=said["namespace"],
        parameters=[*filter(None, files), *([given] if given else [])],
        arguments=["--ros-args", "--log-level", said["log_level"]],
        output="screen",
        emulate_tty=True,
        respawn=is_true(said["respawn"]),
        respawn_delay=2.0,
    )


def when_active(node, action, every_s=0.5):
    """Does the action once the node is active, whoever activates it; comes after the node.

    It asks for the state: a node that starts by itself may be active before launch hears its `transition_event`, and
    nobody repeats that.
    """
    states, clients = [], []

    def look(context):
        if State.PRIMARY_STATE_ACTIVE in states:
            return [action]
        if not clients:
            clients.append(get_ros_node(context).create_client(GetState, f"{node.node_name}/get_state"))
        if clients[0].service_is_ready():
            answer = clients[0].call_async(GetState.Request())
            answer.add_done_callback(lambda answered: states.append(answered.result().current_state.id))
        return [TimerAction(period=every_s, actions=[OpaqueFunction(function=look)])]

    return OpaqueFunction(function=look)
