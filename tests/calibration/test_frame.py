import array
import io
import tracemalloc
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from avcompress.spec import DataError
from calibration.frame import ENCODINGS, CompressedImage, Header, RawImage, check_frame, frame_of, to_rgb

HEADER = Header(12, 345, "front")
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
SMOOTH = np.repeat(np.repeat(np.random.default_rng(1).integers(0, 256, (3, 4, 3), np.uint8), 2, 0), 2, 1)


def raw(encoding, rows, height=6, width=8, padding=0):
    rows = np.asarray(rows, np.uint8).reshape(len(rows), -1)
    padded = np.pad(rows, ((0, 0), (0, padding)), constant_values=99)
    return RawImage(HEADER, height, width, encoding, padded.shape[1], padded.ravel())


def file(kind, pixels=PIXELS):
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind)
    return np.frombuffer(out.getvalue(), np.uint8)


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize(
    ("encoding", "rows", "expected"),
    [
        ("rgb8", PIXELS, PIXELS),
        ("bgr8", PIXELS[:, :, ::-1], PIXELS),
        ("mono8", PIXELS[:, :, 0], np.repeat(PIXELS[:, :, :1], 3, axis=2)),
    ],
)
def test_what_is_not_yuv_is_its_own_pixels_whatever_fills_the_rows_up(encoding, rows, expected, padding):
    np.testing.assert_array_equal(to_rgb(raw(encoding, rows, padding=padding)), expected)


def as_yuv(rgb):
    """Y, U, V (H, W) of BT.601 in limited range, by its definition."""
    r, g, b = np.moveaxis(rgb.astype(float), 2, 0)
    y = 16 + (65.738 * r + 129.057 * g + 25.064 * b) / 256
    u = 128 + (-37.945 * r - 74.494 * g + 112.439 * b) / 256
    v = 128 + (112.439 * r - 94.154 * g - 18.285 * b) / 256
    return tuple(np.round(plane).astype(np.uint8) for plane in (y, u, v))


def nv12(rgb):
    y, u, v = as_yuv(rgb)
    colours = np.stack([u[::2, ::2], v[::2, ::2]], axis=2).reshape(len(y) // 2, -1)
    return np.concatenate([y, colours])


def packed(rgb, order):
    y, u, v = as_yuv(rgb)
    planes = {"y0": y[:, ::2], "u": u[:, ::2], "y1": y[:, 1::2], "v": v[:, ::2]}
    return np.stack([planes[name] for name in order], axis=2).reshape(len(y), -1)


@pytest.mark.parametrize("padding", [0, 6])
@pytest.mark.parametrize(
    ("encoding", "rows"),
    [
        ("nv12", nv12(SMOOTH)),
        ("yuv422", packed(SMOOTH, ("u", "y0", "v", "y1"))),
        ("uyvy", packed(SMOOTH, ("u", "y0", "v", "y1"))),
        ("yuv422_yuy2", packed(SMOOTH, ("y0", "u", "y1", "v"))),
        ("yuyv", packed(SMOOTH, ("y0", "u", "y1", "v"))),
    ],
)
def test_yuv_is_bt_601_of_limited_range(encoding, rows, padding):
    np.testing.assert_allclose(to_rgb(raw(encoding, rows, padding=padding)).astype(int), SMOOTH, atol=3)


def test_rgb_rows_without_filling_are_not_copied():
    frame = raw("rgb8", PIXELS)
    assert np.shares_memory(to_rgb(frame), frame.data)


def test_the_last_row_may_end_where_its_pixels_do():
    frame = raw("rgb8", PIXELS, padding=7)
    short = RawImage(HEADER, 6, 8, "rgb8", frame.step, frame.data[:-7])
    check_frame(short)
    np.testing.assert_array_equal(to_rgb(short), PIXELS)


def test_what_a_corrupt_step_promises_is_not_allocated():
    frame = RawImage(HEADER, 1, 8, "rgb8", 2**32 - 1, PIXELS[0].ravel())
    check_frame(frame)
    tracemalloc.start()
    try:
        image = to_rgb(frame)
        _, most_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(image, PIXELS[:1])
    assert most_bytes < 1_000_000


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_compressed_images_are_what_the_file_holds(kind):
    expected = cv2.cvtColor(cv2.imdecode(file(kind), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    found = to_rgb(CompressedImage(HEADER, kind.lower(), file(kind)))
    np.testing.assert_allclose(found.astype(int), expected, atol=0 if kind == "PNG" else 2)


@pytest.mark.parametrize("data", [file("JPEG")[:-40], file("JPEG")[:3], np.arange(50, dtype=np.uint8)])
def test_a_compressed_image_that_is_not_whole_is_refused(data):
    frame = CompressedImage(HEADER, "jpeg", data)
    check_frame(frame)
    with pytest.raises(DataError, match=r"^image: expected a readable image, got .*; mend the camera's driver"):
        to_rgb(frame)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (RawImage(HEADER, 6, 8, "bayer_rggb8", 8, PIXELS.ravel()), "expected one of rgb8, .*, got 'bayer_rggb8'"),
        (RawImage(HEADER, 0, 8, "rgb8", 24, PIXELS.ravel()), "expected sides of 1 to 16384 pixels, got 8x0 rgb8"),
        (RawImage(HEADER, 6, 1 << 31, "rgb8", 24, PIXELS.ravel()), "expected sides of 1 to 16384 pixels"),
        (RawImage(HEADER, 6, 8, "rgb8", 23, PIXELS.ravel()), "expected rows of at least 24 bytes .* got 23"),
        (RawImage(HEADER, 7, 8, "rgb8", 24, PIXELS.ravel()), "expected 168 bytes for 8x7 rgb8, got 144"),
        (RawImage(HEADER, 6, 8, "nv12", 8, PIXELS.ravel()[:71]), "expected 72 bytes for 8x6 nv12, got 71"),
        (RawImage(HEADER, 5, 8, "nv12", 8, PIXELS.ravel()), "expected even sides for nv12, got 8x5"),
        (RawImage(HEADER, 6, 7, "yuv422", 16, PIXELS.ravel()), "expected even sides for yuv422, got 7x6"),
        (CompressedImage(HEADER, "jpeg", np.zeros(0, np.uint8)), "expected a JPEG or PNG file, got no bytes"),
    ],
)
def test_a_frame_that_cannot_be_read_is_refused_before_it_is_decoded(frame, message):
    with pytest.raises(DataError, match=message):
        check_frame(frame)
    with pytest.raises(DataError):
        to_rgb(frame)


@given(
    encoding=st.sampled_from([*ENCODINGS, "RGB8", "none"]),
    height=st.integers(-1, 9),
    width=st.integers(-1, 9),
    step=st.integers(-1, 40),
    size=st.integers(0, 500),
)
def test_what_the_check_lets_pass_is_an_image_of_its_size(encoding, height, width, step, size):
    frame = RawImage(HEADER, height, width, encoding, step, np.zeros(size, np.uint8))
    try:
        check_frame(frame)
    except DataError as error:
        assert "\n" not in str(error)
    else:
        image = to_rgb(frame)
        assert image.shape == (height, width, 3)
        assert image.dtype == np.uint8


def test_a_stamp_is_nanoseconds_and_what_the_camera_said():
    assert HEADER.stamp_ns == 12_000_000_345
    assert (HEADER.sec, HEADER.nanosec) == (12, 345)


def message(**fields):
    stamp = SimpleNamespace(sec=12, nanosec=345)
    return SimpleNamespace(header=SimpleNamespace(stamp=stamp, frame_id="front"), **fields)


@pytest.mark.parametrize(
    "as_held",
    [lambda d: d, bytes, memoryview, list, lambda d: array.array("B", d.tobytes())],
    ids=["ndarray", "bytes", "memoryview", "list", "array"],
)
def test_messages_become_frames_however_their_library_holds_the_bytes(as_held):
    data = PIXELS.ravel()
    frame = frame_of(message(height=6, width=8, encoding="rgb8", is_bigendian=0, step=24, data=as_held(data)))
    assert (frame.header, frame.height, frame.width, frame.step) == (HEADER, 6, 8, 24)
    np.testing.assert_array_equal(to_rgb(frame), PIXELS)

    jpeg = frame_of(message(format="rgb8; jpeg compressed bgr8", data=as_held(file("PNG"))))
    assert jpeg.header == HEADER
    np.testing.assert_array_equal(to_rgb(jpeg), PIXELS)
