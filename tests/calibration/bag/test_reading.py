import numpy as np
import pytest

pytest.importorskip("rosbags")
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from avcompress.spec import DataError
from calibration.bag.reading import image_topics, open_bag
from calibration.frame import CompressedImage, RawImage, to_rgb

STORE = get_typestore(Stores.ROS2_JAZZY)
T = STORE.types
PIXELS = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)


def header(stamp, frame_id="front"):
    time = T["builtin_interfaces/msg/Time"](stamp // 10**9, stamp % 10**9)
    return T["std_msgs/msg/Header"](time, frame_id)


def raw(stamp):
    return T["sensor_msgs/msg/Image"](header(stamp), 4, 6, "rgb8", 0, 18, PIXELS.ravel())


def compressed(stamp):
    return T["sensor_msgs/msg/CompressedImage"](header(stamp), "jpeg", np.arange(9, dtype=np.uint8))


def write(path, messages, storage=StoragePlugin.MCAP):
    """Messages as (topic, recorded_ns, message)."""
    with Writer(path, version=8, storage_plugin=storage) as writer:
        connections = {}
        for topic, recorded, message in messages:
            kind = message.__msgtype__
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=STORE)
            writer.write(connections[topic], recorded, STORE.serialize_cdr(message, kind))
    return path


DRIVE = [
    ("/front", 10, raw(1)),
    ("/left", 20, compressed(2)),
    ("/speed", 25, T["std_msgs/msg/Float64"](3.0)),
    ("/front", 30, raw(3)),
]


@pytest.fixture(params=[StoragePlugin.MCAP, StoragePlugin.SQLITE3])
def bag(tmp_path, request):
    return write(tmp_path / "drive", DRIVE, request.param)


def test_frames_come_in_the_order_of_the_recording_as_their_cameras_sent_them(bag):
    with open_bag(bag, {"a": "/front", "b": "/left"}) as frames:
        assert len(frames) == 3
        found = list(frames)
    assert [(r.camera, r.recorded_ns, r.frame.header.stamp_ns) for r in found] == [
        ("a", 10, 1),
        ("b", 20, 2),
        ("a", 30, 3),
    ]
    assert isinstance(found[0].frame, RawImage)
    assert isinstance(found[1].frame, CompressedImage)
    np.testing.assert_array_equal(to_rgb(found[2].frame), PIXELS)


def test_only_what_was_asked_for_is_read(bag):
    with open_bag(bag, {"a": "/left"}) as frames:
        assert [r.camera for r in frames] == ["a"]
    with open_bag(bag, {}) as frames:
        assert list(frames) == []


def test_the_topics_with_images_are_told(bag):
    assert image_topics(bag) == ("/front", "/left")


@pytest.mark.parametrize("topic", ["/speed", "/rear"])
def test_a_topic_without_images_is_refused_with_those_that_have_some(bag, topic):
    with (
        pytest.raises(DataError, match=f"expected images on {topic}, got them on /front, /left; name one of these"),
        open_bag(bag, {"a": topic}),
    ):
        pass


def test_what_is_no_bag_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "metadata.yaml").write_text("rosbag2_bagfile_information: 3\n")
    for name in ("absent", "empty", "odd"):
        with pytest.raises(DataError, match=f"{name}: expected a rosbag2"), open_bag(tmp_path / name, {}):
            pass


def test_a_damaged_bag_is_an_error_that_names_it_not_a_crash(tmp_path):
    rng = np.random.default_rng(0)
    for storage in (StoragePlugin.MCAP, StoragePlugin.SQLITE3):
        path = write(tmp_path / storage.name, DRIVE, storage)
        (file,) = (f for f in path.iterdir() if f.name != "metadata.yaml")
        whole, refused = file.read_bytes(), 0
        for _ in range(60):
            data = bytearray(whole)
            at = int(rng.integers(len(data)))
            data[at : at + 40] = rng.bytes(40)
            file.write_bytes(bytes(data[: int(rng.integers(len(data)))]) if rng.random() < 0.3 else data)
            try:
                with open_bag(path, {"a": "/front", "b": "/left"}) as frames:
                    list(frames)
            except DataError as error:
                refused += 1
                assert str(error).startswith(str(path))
        assert refused > 10
