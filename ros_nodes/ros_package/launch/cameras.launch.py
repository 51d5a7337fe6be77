"""Several cameras in one node, together through the engine where it takes several images.

ros2 launch avcompress_ros cameras.launch.py bundle:=B cameras:=front,left images:=/front/image_raw,/left/image_raw
"""

from avcompress_ros.launching import arguments, names, serving_node
from launch import LaunchDescription
from launch.actions import OpaqueFunction


def generate_launch_description():
    more = {
        "cameras": ("front,left,right", "names of the cameras"),
        "images": ("", "topic of each one's images, in their order; default: /NAME/image_raw"),
        "batch_window_ms": ("5.0", "how long the first image waits for those of the other cameras"),
        "name": ("avcompress", "name of the node"),
    }
    return LaunchDescription([*arguments(**more), OpaqueFunction(function=nodes)])


def nodes(context):
    said = context.launch_configurations
    cameras = names(said["cameras"])
    images = names(said["images"]) or [f"/{camera}/image_raw" for camera in cameras]
    window = float(said["batch_window_ms"])
    return [serving_node(context, said["name"], cameras=cameras, image_topics=images, batch_window_ms=window)]
