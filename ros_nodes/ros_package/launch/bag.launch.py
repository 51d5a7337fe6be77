"""A recorded drive, played to a node in the drive's own time; launch ends when the drive does.

ros2 launch avcompress_ros bag.launch.py bag:=drive bundle:=yolox.bundle image:=/front/image_raw
"""

from avcompress_ros.launching import arguments, serving_node
from launch import LaunchDescription
from launch.actions import ExecuteProcess, OpaqueFunction, RegisterEventHandler, Shutdown, TimerAction
from launch.event_handlers import OnProcessExit


def generate_launch_description():
    more = {
        "bag": ("", "folder of the drive"),
        "camera": ("camera", "name of the camera"),
        "image": ("/camera/image_raw", "topic of its images"),
        "rate": ("1.0", "times as fast as it was driven"),
        "delay": ("5.0", "seconds until it begins: the node has to load its bundle first"),
        "name": ("avcompress", "name of the node"),
    }
    return LaunchDescription([*arguments(**more), OpaqueFunction(function=nodes)])


def nodes(context):
    said = context.launch_configurations
    play = ExecuteProcess(
        cmd=["ros2", "bag", "play", said["bag"], "--clock", "--rate", said["rate"]], name="play", output="screen"
    )
    cameras = {"cameras": [said["camera"]], "image_topics": [said["image"]]}
    return [
        serving_node(context, said["name"], use_sim_time=True, **cameras),
        TimerAction(period=float(said["delay"]), actions=[play]),
        RegisterEventHandler(OnProcessExit(target_action=play, on_exit=[Shutdown(reason="the drive has ended")])),
    ]
