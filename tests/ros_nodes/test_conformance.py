"""What every adapter does alike: one suite over all of them."""

import io

import numpy as np
import pytest
from PIL import Image

from calibration.frame import CompressedImage, Header, RawImage

START = 10**18
MS = 1_000_000


def header(ms, frame_id="front_optical"):
    stamp = START + ms * MS - 3
    return Header(stamp // 10**9, stamp % 10**9, frame_id)


def picture(ms, value=80, encoding="rgb8", height=48, width=96):
    return RawImage(header(ms), height, width, encoding, width * 3, np.full(height * width * 3, value, np.uint8))


def photo(ms, colour=(0, 200, 0)):
    out = io.BytesIO()
    Image.fromarray(np.full((48, 96, 3), colour, np.uint8)).save(out, "PNG")
    return CompressedImage(header(ms), "png", np.frombuffer(out.getvalue(), np.uint8))


@pytest.fixture(params=["in process", "mcap", "sqlite3", "wire", pytest.param("rclpy", marks=pytest.mark.ros)])
def play(request, tmp_path, bench, rigs):
    """Play a script of (ms, camera, frame) behind an adapter; hands back what was heard."""
    if request.param == "rclpy":
        request.getfixturevalue("world")  # skips without ROS

    def run(script, engine=None, **settings):
        b = bench(**settings)
        if engine:
            b.engines["main"] = engine
        return rigs.RIGS[request.param](script, b.settings, b.load, tmp_path)

    return run


def test_boxes_come_in_pixels_of_the_image_under_the_header_of_the_image(play):
    heard = play([(0, "front", picture(0)), (100, "front", picture(100))])
    assert [(camera, at) for camera, at, _ in heard.results] == [("front", header(0)), ("front", header(100))]
    for _, _, rows in heard.results:
        np.testing.assert_allclose(rows, [[40.5, 18, 55.5, 30, 0.9, 0]], atol=1e-4)


def test_nothing_seen_is_heard_too(play, engine):
    blind = engine()
    blind.run = lambda inputs: {"boxes": np.zeros((len(inputs["image"]), 6, 2), np.float32)}
    heard = play([(0, "front", picture(0))], blind)
    assert heard.results == [("front", header(0), [])]


def test_masks_come_at_the_size_of_the_image(play, segmenter):
    heard = play([(0, "front", photo(0)), (100, "front", photo(100, (0, 0, 200)))], segmenter())
    assert [(mask.shape, mask.min(), mask.max()) for _, _, mask in heard.results] == [
        ((48, 96), 1, 1),
        ((48, 96), 2, 2),
    ]


def test_the_names_of_the_classes_come_before_the_first_result(play):
    heard = play([(0, "front", picture(0))])
    assert heard.order == ["announcement", "front"]
    assert heard.announcements == [("tiny", 1, ("car", "person"))]


def test_each_camera_s_results_are_its_own(play):
    script = [(0, "front", picture(0, 160)), (1, "left", picture(1, 80)), (100, "left", picture(100, 80))]
    heard = play(script, cameras=("front", "left"))
    widths = [(camera, round(rows[0][2] - rows[0][0])) for camera, _, rows in heard.results]
    assert widths == [("front", 30), ("left", 15), ("left", 15)]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (picture(100, encoding="bayer_rggb8"), "rejected: image: expected one of rgb8"),
        (CompressedImage(header(100), "jpeg", np.arange(50, dtype=np.uint8)), "rejected: image: expected a readable"),
    ],
)
def test_what_cannot_be_read_is_told_and_the_others_are_served(play, bad, message):
    heard = play([(0, "front", picture(0)), (100, "front", bad)])
    level, text, values = heard.statuses["camera front"]
    assert level == 2, text
    assert text.startswith(message)
    assert (values["received"], values["published"], values["dropped_rejected"]) == ("2", "1", "1")
    heard = heard.counts["front"]
    assert (heard.received, heard.published, heard.pending) == (2, 1, 0)


def test_diagnostics_have_autoware_s_keys(play):
    heard = play([(0, "front", picture(0))])
    _, _, values = heard.statuses["processing"]
    assert {
        "processing_time_ms",
        "is_processing_time_ms_in_expected_range",
        "consecutive_processing_delay_ms",
        "is_consecutive_processing_delay_in_range",
        "preprocess_time_ms",
        "inference_time_ms",
        "postprocess_time_ms",
    } <= set(values)
    assert heard.statuses["engine"][2]["active_engine"] == "tiny revision 1, ort"
