"""ros2 launch avcompress_ros one_camera.launch.py bundle:=yolox.bundle key:=release.pem.pub image:=/camera/image_raw"""

from avcompress_ros.launching import BUNDLE, arguments, names, serving_node
from launch import LaunchDescription
from launch.actions import OpaqueFunction


def generate_launch_description():
    more = {
        **BUNDLE,
        "camera": ("", "name of the camera; default: camera"),
        "image": ("", "topic of its images, JPEG and PNG where it ends in /compressed; default: /camera/image_raw"),
        "name": ("avcompress", "name of the node"),
    }
    return LaunchDescription([*arguments(**more), OpaqueFunction(function=nodes)])


def nodes(context):
    said = context.launch_configurations
    bundles = {name: said[name] for name in BUNDLE}
    cameras, topics = names(said["camera"]), names(said["image"])
    return [serving_node(context, said["name"], "one_camera.yaml", cameras=cameras, image_topics=topics, **bundles)]
