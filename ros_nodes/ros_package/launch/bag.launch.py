"""A recorded drive, played to a node in the drive's own time once the node is active; launch ends when the drive does.

ros2 launch avcompress_ros bag.launch.py bag:=drive bundle:=yolox.bundle image:=/front/image_raw
"""

from avcompress_ros.launching import BUNDLE, arguments, names, serving_node, when_active
from launch import LaunchDescription
from launch.actions import ExecuteProcess, OpaqueFunction, RegisterEventHandler, Shutdown
from launch.event_handlers import OnProcessExit


def generate_launch_description():
    more = {
        "bag": ("", "folder of the drive"),
        **BUNDLE,
        "camera": ("", "name of the camera; default: camera"),
        "image": ("", "topic of its images; default: /camera/image_raw"),
        "rate": ("1.0", "times as fast as it was driven"),
        "name": ("avcompress", "name of the node"),
    }
    return LaunchDescription([*arguments(**more), OpaqueFunction(function=nodes)])


def nodes(context):
    said = context.launch_configurations
    play = ExecuteProcess(
        cmd=["ros2", "bag", "play", said["bag"], "--clock", "--rate", said["rate"]], name="play", output="screen"
    )
    given = {"cameras": names(said["camera"]), "image_topics": names(said["image"])}
    given |= {name: said[name] for name in BUNDLE}
    node = serving_node(context, said["name"], "one_camera.yaml", use_sim_time=True, **given)
    return [
        RegisterEventHandler(OnProcessExit(target_action=play, on_exit=[Shutdown(reason="the drive has ended")])),
        node,
        when_active(node, play),
    ]
