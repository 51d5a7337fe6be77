"""Our bytes against an encoder that shares nothing with ours: ours is that of rosbags, this one Cyclone's own."""

import string
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from calibration.frame import Header
from engines.postprocess import Detections
from ros_nodes.bag.library import RosbagsLibrary, encode, typestore
from ros_nodes.core.diagnostics import Level, Status
from ros_nodes.core.lifecycle import State, Step
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
from ros_nodes.wire.transitions import notices

pytest.importorskip("cyclonedds", reason="needs cyclonedds: pip install avcompress[wire]")

LIBRARY = RosbagsLibrary()
PUBLISHED = {
    "vision_msgs/msg/Detection2DArray",
    "sensor_msgs/msg/Image mono8",
    "sensor_msgs/msg/Image mono16",
    "sensor_msgs/msg/Image rgb8",
    "vision_msgs/msg/LabelInfo",
    "vision_msgs/msg/VisionInfo",
    "diagnostic_msgs/msg/DiagnosticArray",
    "std_msgs/msg/Float64",
    "lifecycle_msgs/msg/TransitionEvent",
}

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
headers = st.builds(Header, st.integers(-(2**31), 2**31 - 1), st.integers(0, 2**32 - 1), texts)
names = st.lists(st.text(string.ascii_lowercase, min_size=1, max_size=8), max_size=5).map(tuple)
news = st.builds(
    Announcement, st.just("detection"), texts, st.integers(0, 2**31 - 1), names, st.floats(0, 1), st.just(33.0)
)
found = st.integers(0, 4).flatmap(
    lambda n: st.builds(
        Detections,
        hnp.arrays(np.float32, (n, 4), elements=st.floats(-1e6, 1e6, width=32)),
        hnp.arrays(np.float32, n, elements=st.floats(0, 1, width=32)),
        hnp.arrays(np.int64, n, elements=st.integers(0, 1000)),
    )
)
sizes = hnp.array_shapes(min_dims=2, max_dims=2, max_side=9)
masks = st.sampled_from(["u1", "<u2", ">u2"]).flatmap(lambda kind: hnp.arrays(np.dtype(kind), sizes))
pictures = hnp.arrays(np.uint8, sizes.map(lambda size: (*size, 3)))
statuses = st.lists(
    st.builds(Status, st.sampled_from(Level), texts, texts, st.dictionaries(texts, texts, max_size=3)), max_size=3
)
steps = st.sampled_from(
    [
        (State.UNCONFIGURED, Step(State.INACTIVE, "success", "", "configure")),
        (State.INACTIVE, Step(State.ACTIVE, "success", "", "activate")),
        (State.ACTIVE, Step(State.UNCONFIGURED, "error", "x", "deactivate")),
        (State.UNCONFIGURED, Step(State.UNCONFIGURED, "failure", "x", "configure")),
    ]
)


def result(header, prediction):
    return result_message(Result("front", header, (9, 9), prediction, "e", Moments(0, 0, 0, 0, 0, 0)), LIBRARY)


messages = st.one_of(
    st.builds(result, headers, found),
    st.builds(result, headers, masks),
    st.builds(lambda h, p: picture_message(h, p, LIBRARY), headers, pictures),
    st.builds(lambda a, h: label_info(a, h, LIBRARY), news, headers),
    st.builds(lambda a, h, t: vision_info(a, h, t, LIBRARY), news, headers, texts),
    st.builds(lambda s, n, h: diagnostics(s, n, h, LIBRARY), statuses, texts, headers),
    st.builds(lambda x: milliseconds(x, LIBRARY), st.floats(allow_nan=False)),
    st.builds(lambda s, t: notices(*s, LIBRARY)[0](t), steps, st.integers(0, 2**63)),
)


def by_cyclone(message):
    """The same message as an IdlStruct, encoded by Cyclone DDS's own machine: XCDR1, little-endian."""
    from cyclonedds.idl._support import Endianness

    return _idl(message).serialize(endianness=Endianness.Little, use_version_2=False)


def _idl(value):
    from ros_nodes.wire.types import idl_type

    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, list):
        return [_idl(one) for one in value]
    if not hasattr(value, "__msgtype__"):
        return value
    fields = (name for name, _ in typestore().fielddefs[value.__msgtype__][1])
    return idl_type(value.__msgtype__, typestore())(**{name: _idl(getattr(value, name)) for name in fields})


def test_a_number_is_eight_bytes_by_hand():
    assert by_cyclone(milliseconds(1.0, LIBRARY)) == b"\0\1\0\0" + bytes(6) + b"\xf0\x3f"


def test_a_thousand_random_messages_have_the_bytes_that_cyclone_s_own_encoder_gives_them():
    seen = Counter()

    @settings(max_examples=1000, deadline=None, database=None, derandomize=True)
    @given(messages)
    def compare(message):
        seen[" ".join(filter(None, (message.__msgtype__, getattr(message, "encoding", ""))))] += 1
        assert encode(message) == by_cyclone(message)

    compare()
    assert seen.total() >= 1000
    assert set(seen) == PUBLISHED
    assert min(seen.values()) >= 20
