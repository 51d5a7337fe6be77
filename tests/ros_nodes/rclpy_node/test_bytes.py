"""ROS's own encoder says byte by byte what ours, of rosbags, says, and reads what ours writes.

But for the bytes between values, which Fast CDR leaves as they were in memory: reading and writing makes them zeros.
"""

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
    picture_message,
    result_message,
    vision_info,
)

pytestmark = pytest.mark.ros

WORDS = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=12)
SCORES = st.floats(0, 1, width=32)
HEADERS = st.builds(Header, st.integers(0, 2**31 - 1), st.integers(0, 10**9 - 1), WORDS)
STATUSES = st.builds(Status, st.sampled_from(Level), WORDS, WORDS, st.dictionaries(WORDS, WORDS, max_size=3))
NEWS = st.builds(
    Announcement,
    st.just("detection"),
    WORDS,
    st.integers(0, 2**31 - 1),
    st.lists(WORDS, max_size=4).map(tuple),
    SCORES,
    st.just(33.0),
)


@st.composite
def boxes(draw):
    count = draw(st.integers(0, 4))
    corners = st.lists(st.floats(-4096, 4096, width=32), min_size=4, max_size=4)
    return Detections(
        np.array([draw(corners) for _ in range(count)], np.float32).reshape(-1, 4),
        np.array([draw(SCORES) for _ in range(count)], np.float32),
        np.array([draw(st.integers(0, 999)) for _ in range(count)], np.int64),
    )


def pixels(*channels):
    shapes = st.tuples(st.integers(1, 5), st.integers(1, 7), *map(st.just, channels))
    return shapes.flatmap(lambda shape: hnp.arrays(np.uint8, shape))


def result(header, prediction):
    return Result("front", header, (48, 96), prediction, "tiny", Moments(0, 0, 0, 0, 0, 0))


MADE = {
    "detections": st.tuples(HEADERS, boxes()).map(lambda of: lambda to: result_message(result(*of), to)),
    "mask": st.tuples(HEADERS, pixels()).map(lambda of: lambda to: result_message(result(*of), to)),
    "picture": st.tuples(HEADERS, pixels(3)).map(lambda of: lambda to: picture_message(*of, to)),
    "label_info": st.tuples(NEWS, HEADERS).map(lambda of: lambda to: label_info(*of, to)),
    "vision_info": st.tuples(NEWS, HEADERS).map(lambda of: lambda to: vision_info(*of, "/n/label_info", to)),
    "diagnostics": st.tuples(st.lists(STATUSES, max_size=4), HEADERS).map(
        lambda of: lambda to: diagnostics(of[0], "n", of[1], to)
    ),
    "milliseconds": st.floats(allow_nan=False).map(lambda of: lambda to: milliseconds(of, to)),
}


@pytest.fixture(scope="module")
def installed(world):
    """rclpy's encoder, and its messages."""
    from types import SimpleNamespace

    from rclpy.serialization import deserialize_message, serialize_message

    from ros_nodes.rclpy_node.library import RclpyLibrary

    return SimpleNamespace(encode=serialize_message, decode=deserialize_message, library=RclpyLibrary())


def without_filling(data, name):
    return encode(typestore().deserialize_cdr(data, name))


@pytest.mark.parametrize("kind", MADE)
@settings(max_examples=100)
@given(data=st.data())
def test_a_message_has_the_bytes_that_ros_gives_it(installed, kind, data):
    make = data.draw(MADE[kind])
    ours, theirs = make(RosbagsLibrary()), make(installed.library)
    said, expected = encode(ours), installed.encode(theirs)
    assert len(said) == len(expected)
    assert said == without_filling(expected, ours.__msgtype__)
    assert installed.decode(said, type(theirs)) == theirs
