"""Two nodes that look at the same camera, each with a deadline, a fallback and a lifecycle of its own.

ros2 launch avcompress_ros detector_and_segmenter.launch.py detector:=yolox.bundle segmenter:=espnet.bundle
"""

from avcompress_ros.launching import arguments, serving_node
from launch import LaunchDescription
from launch.actions import OpaqueFunction


def generate_launch_description():
    more = {
        "detector": ("", "folder of the detector's bundle"),
        "segmenter": ("", "folder of the segmenter's bundle"),
        "camera": ("camera", "name of the camera"),
        "image": ("/camera/image_raw", "topic of its images"),
    }
    return LaunchDescription([*arguments(**more), OpaqueFunction(function=nodes)])


def nodes(context):
    said = context.launch_configurations
    common = {"cameras": [said["camera"]], "image_topics": [said["image"]], "fallback": ""}
    return [serving_node(context, name, bundle=said[name], **common) for name in ("detector", "segmenter")]
