"""What launch files share: the arguments that all of them have, and the node that they start."""

import os

from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument
from launch_ros.actions import LifecycleNode

PACKAGE = "avcompress_ros"
COMMON = {
    "bundle": ("", "folder of the bundle to serve"),
    "fallback": ("", "folder of the bundle to fall back to"),
    "key": ("", "file of the public key that has signed the bundle"),
    "allow_unsigned": ("false", "serve a bundle that nobody signed: whoever writes it runs code here"),
    "params_file": ("", "parameters; default: those of this package"),
    "namespace": ("", "before the names of nodes and topics"),
    "autostart": ("true", "configure and activate at once"),
    "respawn": ("false", "start a node again that has ended"),
    "log_level": ("info", "debug, info, warn, error"),
}


def arguments(**more):
    """The arguments of a launch file: COMMON, and more of the form name=(default, description)."""
    return [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, (default, description) in {**COMMON, **more}.items()
    ]


def names(text):
    """`front, left` -> ['front', 'left']."""
    return [name.strip() for name in text.split(",") if name.strip()]


def is_true(text):
    """What `name:=true` says."""
    return text.strip().lower() in {"true", "1", "yes"}


def serving_node(context, name, **parameters):
    """A managed node, which starts itself where `autostart` says so; parameters that are empty are left out."""
    said = context.launch_configurations
    given = {
        "bundle": said["bundle"],
        "fallback": said["fallback"],
        "keys": names(said["key"]),
        "allow_unsigned": is_true(said["allow_unsigned"]),
        "autostart": is_true(said["autostart"]),
        **parameters,
    }
    file = said["params_file"] or os.path.join(get_package_share_directory(PACKAGE), "config", "avcompress.yaml")
    return LifecycleNode(
        package=PACKAGE,
        executable="node",
        name=name,
        namespace=said["namespace"],
        parameters=[file, {key: value for key, value in given.items() if value not in ("", [])}],
        arguments=["--ros-args", "--log-level", said["log_level"]],
        output="screen",
        emulate_tty=True,
        respawn=is_true(said["respawn"]),
        respawn_delay=2.0,
    )
