import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from calibration.frame import Header
from engines.postprocess import Detections
from ros_nodes.bag.library import RosbagsLibrary, encode, typestore
from ros_nodes.core.diagnostics import Level, Status
from ros_nodes.core.port import Announcement
from ros_nodes.core.result import Moments, Result
from ros_nodes.messages.outgoing import (
    diagnostics,
    label_info,
    milliseconds,
    result_message,
    vision_info,
)

LIBRARY = RosbagsLibrary()
HEADER = Header(1, 2, "a")
NEWS = Announcement("detection", "tiny", 7, ("car", "person"), 0.3, 33.0)


def result(prediction, header=HEADER):
    return Result("front", header, (48, 96), prediction, "tiny", Moments(0, 0, 0, 0, 0, 0))


def boxes(*rows):
    xyxy = np.array([row[:4] for row in rows], np.float32).reshape(-1, 4)
    return Detections(
        xyxy, np.array([row[4] for row in rows], np.float32), np.array([row[5] for row in rows], np.int64)
    )


def decoded(message):
    return typestore().deserialize_cdr(encode(message), message.__msgtype__)


def test_an_empty_array_is_a_whole_message_by_hand():
    # CDR little-endian: sec, nanosec, length of "a" with its zero, the letters, filling, no detections.
    expected = b"\0\1\0\0" + struct.pack("<iII", 1, 2, 2) + b"a\0\0\0" + struct.pack("<I", 0)
    assert encode(result_message(result(boxes()), LIBRARY)) == expected


def test_a_mask_is_an_image_of_one_byte_a_pixel_by_hand():
    mask = np.array([[1, 2, 3], [4, 5, 6]], np.uint8)
    head = struct.pack("<iII", 1, 2, 2) + b"a\0\0\0" + struct.pack("<III", 2, 3, 6) + b"mono8\0" + b"\0\0"
    expected = b"\0\1\0\0" + head + struct.pack("<II", 3, 6) + bytes([1, 2, 3, 4, 5, 6])
    found = encode(result_message(result(mask), LIBRARY))
    assert found == expected


def test_a_mask_of_more_classes_has_two_bytes_a_pixel_the_lower_one_first():
    mask = np.array([[1, 256, 3], [0x0405, 5, 65535]], np.uint16)
    head = struct.pack("<iII", 1, 2, 2) + b"a\0\0\0" + struct.pack("<III", 2, 3, 7) + b"mono16\0" + b"\0"
    expected = b"\0\1\0\0" + head + struct.pack("<II", 6, 12) + struct.pack("<6H", 1, 256, 3, 0x0405, 5, 65535)
    assert encode(result_message(result(mask), LIBRARY)) == expected
    assert encode(result_message(result(mask.astype(">u2")), LIBRARY)) == expected


def test_a_box_is_its_centre_and_size_its_class_the_number_that_label_info_names():
    message = decoded(result_message(result(boxes((10, 20, 30, 60, 0.5, 1))), LIBRARY))
    (found,) = message.detections
    assert (found.bbox.center.position.x, found.bbox.center.position.y, found.bbox.center.theta) == (20, 40, 0)
    assert (found.bbox.size_x, found.bbox.size_y) == (20, 40)
    (hypothesis,) = found.results
    assert (hypothesis.hypothesis.class_id, hypothesis.hypothesis.score) == ("1", 0.5)
    assert hypothesis.pose.pose.orientation.w == 1
    names = {str(c.class_id): c.class_name for c in decoded(label_info(NEWS, HEADER, LIBRARY)).class_map}
    assert names["1"] == "person"


headers = st.builds(
    Header,
    sec=st.integers(-(2**31), 2**31 - 1),
    nanosec=st.integers(0, 2**32 - 1),
    frame_id=st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20),
)
finite = st.floats(-1e6, 1e6, width=32)
detections = st.integers(0, 5).flatmap(
    lambda n: st.builds(
        Detections,
        hnp.arrays(np.float32, (n, 4), elements=finite),
        hnp.arrays(np.float32, n, elements=st.floats(0, 1, width=32)),
        hnp.arrays(np.int64, n, elements=st.integers(0, 1000)),
    )
)
masks = hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=8))


@settings(max_examples=500)
@given(headers, detections)
def test_every_detection_arrives_as_it_was_sent(header, found):
    message = decoded(result_message(result(found, header), LIBRARY))
    assert Header(message.header.stamp.sec, message.header.stamp.nanosec, message.header.frame_id) == header
    assert len(message.detections) == len(found.labels)
    for one, xyxy, score, label in zip(message.detections, found.xyxy, found.scores, found.labels, strict=True):
        assert one.header == message.header
        center, size = one.bbox.center.position, np.array([one.bbox.size_x, one.bbox.size_y])
        low = np.array([center.x, center.y]) - size / 2
        np.testing.assert_allclose([*low, *(low + size)], xyxy, rtol=1e-9, atol=1e-9)
        assert one.results[0].hypothesis.score == score
        assert one.results[0].hypothesis.class_id == str(label)


@settings(max_examples=500)
@given(headers, masks)
def test_every_mask_arrives_as_it_was_sent(header, mask):
    message = decoded(result_message(result(mask, header), LIBRARY))
    assert Header(message.header.stamp.sec, message.header.stamp.nanosec, message.header.frame_id) == header
    assert (message.encoding, message.step) == ("mono8", mask.shape[1])
    np.testing.assert_array_equal(message.data.reshape(message.height, message.width), mask)


def test_vision_info_names_network_revision_and_the_topic_of_the_labels():
    message = decoded(vision_info(NEWS, HEADER, "/node/label_info", LIBRARY))
    assert (message.method, message.database_location, message.database_version) == ("tiny", "/node/label_info", 7)
    assert decoded(label_info(NEWS, HEADER, LIBRARY)).threshold == np.float32(0.3)


def test_diagnostics_are_named_after_the_node():
    statuses = (Status(Level.WARN, "engine", "on the fallback", {"fallback_count": "1"}),)
    (found,) = decoded(diagnostics(statuses, "front_detector", HEADER, LIBRARY)).status
    assert (found.level, found.name, found.message) == (1, "front_detector: engine", "on the fallback")
    assert [(v.key, v.value) for v in found.values] == [("fallback_count", "1")]


def test_a_time_is_milliseconds():
    assert decoded(milliseconds(12.5, LIBRARY)).data == 12.5


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Detection2DArray", "214274120007f4a683866481336b70310268cfa107aebe9d594a6acf75bda968"),
        ("LabelInfo", "3d37df4015cdf660cc851c51897f2acd957e1ca6205ba0a99aebffb9406b0783"),
        ("VisionInfo", "95d3116a17484ad91c9a2686e1d54890bbfc3ff6c6a2de137738c4950d45d284"),
    ],
)
def test_our_definitions_have_the_hashes_that_another_library_computes_of_the_same_types(name, expected):
    # By ros2-pyterfaces 0.3.0, from its own std_msgs and geometry_msgs.
    assert typestore().hash_rihs01(f"vision_msgs/msg/{name}") == f"RIHS01_{expected}"
