"""Drives for tests: JPEG, PNG or raw frames under a topic, at the times that are asked for."""

import cv2
import numpy as np
import pytest

START = 1_700_000_000_000_000_000


def raw_message(store, stamp, image):
    height, width = image.shape[:2]
    return store.types["sensor_msgs/msg/Image"](
        _header(store, stamp), height, width, "rgb8", 0, width * 3, np.ascontiguousarray(image).ravel()
    )


def file_message(store, stamp, image, kind):
    data = image if isinstance(image, bytes) else cv2.imencode(f".{kind}", image[:, :, ::-1])[1].tobytes()
    make = store.types["sensor_msgs/msg/CompressedImage"]
    return make(_header(store, stamp), kind, np.frombuffer(data, np.uint8))


def _header(store, stamp):
    time = store.types["builtin_interfaces/msg/Time"](stamp // 10**9, stamp % 10**9)
    return store.types["std_msgs/msg/Header"](time, "front")


@pytest.fixture
def write_drive():
    """Writes frames, (topic, seconds, (H, W, 3) RGB or the bytes of a file), as a bag; returns its folder."""
    pytest.importorskip("rosbags")
    from rosbags.rosbag2 import StoragePlugin, Writer
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS2_JAZZY)

    def write(path, frames, kind="png", storage="mcap"):
        plugin = StoragePlugin.MCAP if storage == "mcap" else StoragePlugin.SQLITE3
        with Writer(path, version=8, storage_plugin=plugin) as writer:
            connections = {}
            for topic, seconds, image in frames:
                at = START + round(seconds * 1e9)
                stamp = at - 5_000_000
                raw = kind == "raw"
                message = raw_message(store, stamp, image) if raw else file_message(store, stamp, image, kind)
                if topic not in connections:
                    connections[topic] = writer.add_connection(topic, message.__msgtype__, typestore=store)
                writer.write(connections[topic], at, store.serialize_cdr(message, message.__msgtype__))
        return path

    return write
