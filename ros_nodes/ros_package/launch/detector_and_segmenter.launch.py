"""Two nodes that look at the same camera, each with a deadline, a fallback and a lifecycle of its own.

ros2 launch avcompress_ros detector_and_segmenter.launch.py detector:=yolox.bundle segmenter:=espnet.bundle
"""

from avcompress_ros.launching import arguments, names, serving_node
from launch import LaunchDescription
from launch.actions import OpaqueFunction


def generate_launch_description():
    more = {
        "detector": ("", "folder of the detector's bundle"),
        "detector_fallback": ("", "folder of the bundle that the detector falls back to"),
        "segmenter": ("", "folder of the segmenter's bundle"),
        "segmenter_fallback": ("", "folder of the bundle that the segmenter falls back to"),
        "camera": ("", "name of the camera; default: camera"),
        "image": ("", "topic of its images; default: /camera/image_raw"),
    }
    return LaunchDescription([*arguments(**more), OpaqueFunction(function=nodes)])


def nodes(context):
    said = context.launch_configurations
    camera = {"cameras": names(said["camera"]), "image_topics": names(said["image"])}
    return [
        serving_node(context, name, "one_camera.yaml", bundle=said[name], fallback=said[f"{name}_fallback"], **camera)
        for name in ("detector", "segmenter")
    ]
