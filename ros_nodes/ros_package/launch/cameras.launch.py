"""Several cameras in one node, together through the engine where it takes several images.

ros2 launch avcompress_ros cameras.launch.py bundle:=B cameras:=front,left images:=/front/image_raw,/left/image_raw
"""

from avcompress_ros.launching import BUNDLE, arguments, names, serving_node
from launch import LaunchDescription
from launch.actions import OpaqueFunction


def generate_launch_description():
    more = {
        **BUNDLE,
        "cameras": ("", "names of the cameras; default: front,left,right"),
        "images": ("", "topic of each one's images, in their order; default: /NAME/image_raw"),
        "batch_window_ms": ("", "how long the first image waits for those of the other cameras; default: 5.0"),
        "name": ("avcompress", "name of the node"),
    }
    return LaunchDescription([*arguments(**more), OpaqueFunction(function=nodes)])


def nodes(context):
    said = context.launch_configurations
    cameras = names(said["cameras"])
    images = names(said["images"]) or [f"/{camera}/image_raw" for camera in cameras]
    given = {"cameras": cameras, "image_topics": images, **{name: said[name] for name in BUNDLE}}
    if said["batch_window_ms"]:
        given["batch_window_ms"] = float(said["batch_window_ms"])
    return [serving_node(context, said["name"], "cameras.yaml", **given)]
