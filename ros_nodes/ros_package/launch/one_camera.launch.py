"""ros2 launch avcompress_ros one_camera.launch.py bundle:=yolox.bundle key:=release.pem.pub image:=/camera/image_raw"""

from avcompress_ros.launching import arguments, serving_node
from launch import LaunchDescription
from launch.actions import OpaqueFunction


def generate_launch_description():
    more = {
        "camera": ("camera", "name of the camera"),
        "image": ("/camera/image_raw", "topic of its images; JPEG and PNG where it ends in /compressed"),
        "name": ("avcompress", "name of the node"),
    }
    return LaunchDescription([*arguments(**more), OpaqueFunction(function=nodes)])


def nodes(context):
    said = context.launch_configurations
    return [serving_node(context, said["name"], cameras=[said["camera"]], image_topics=[said["image"]])]
