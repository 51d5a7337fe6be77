"""engines.dialects.calibration_cache: the format of files that TensorRT wrote, its own round trip, hostile input."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from avcompress.spec import DataError
from engines.dialects.calibration_cache import CalibrationCache, read_cache, version_number, write_cache

NAMES = st.text(st.characters(categories=["L", "N", "P", "S"], include_characters=" "), min_size=1, max_size=20)
SCALES = st.floats(2**-126, 2**100, width=32)


def test_scales_are_the_digits_of_a_big_endian_float32():
    assert write_cache(CalibrationCache("8601", {"x": 1.0, "conv/out:0": 0.0078125})) == (
        b"TRT-8601-EntropyCalibration2\nx: 3f800000\nconv/out:0: 3c000000\n"
    )


def test_a_file_that_tensorrt_wrote_reads():
    """From a public log of TensorRT 7.2 on MNIST."""
    content = b"TRT-7202-EntropyCalibration2\ndata: 3c008912\n(Unnamed Layer* 4) [Fully Connected]_output: 3d65992f\n"

    cache = read_cache(content)

    assert cache.version == "7202"
    assert cache.scales["data"] == 2**-7 * (1 + 0x008912 / 2**23)
    assert list(cache.scales) == ["data", "(Unnamed Layer* 4) [Fully Connected]_output"]
    assert write_cache(cache) == content


def test_leading_zeros_may_be_missing():
    assert read_cache(b"TRT-8601-EntropyCalibration2\nx: 800000").scales == {"x": float(np.finfo(np.float32).tiny)}


@given(st.dictionaries(NAMES.filter(str.strip), SCALES, max_size=8))
@example({"a: 3f800000": 0.5, "a": 0.25, " a:": 1.0, "TRT-8601-EntropyCalibration2": 2.0})
def test_every_name_and_float32_scale_survives_the_file(scales):
    content = write_cache(CalibrationCache("100300", scales))

    cache = read_cache(content)

    assert list(cache.scales.items()) == list(scales.items())
    assert cache.version == "100300"
    assert write_cache(cache) == content


@given(st.binary(max_size=80) | st.binary(max_size=40).map(b"TRT-8601-EntropyCalibration2\n".__add__))
@example(b"TRT-8601-EntropyCalibration2\nx: 7fc00000")
@example(b"TRT-8601-EntropyCalibration2\n\x00: 3f800000")
def test_any_bytes_are_read_or_refused_in_one_line(content):
    try:
        cache = read_cache(content)
    except DataError as error:
        assert "\n" not in str(error)
    else:
        assert all(np.isfinite(scale) and scale > 0 for scale in cache.scales.values())


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ("", "line 1: expected TRT-"),
        ("TRT-8601-Entropy\n", "line 1: expected TRT-"),
        ("TRT-8601-EntropyCalibration2\nx 3f800000\n", "line 2: expected `tensor: `"),
        ("TRT-8601-EntropyCalibration2\nx: 3f8000001\n", "line 2: expected `tensor: `"),
        ("TRT-8601-EntropyCalibration2\nx: 0.5\n", "line 2: expected `tensor: `"),
        ("TRT-8601-EntropyCalibration2\n: 3f800000\n", "line 2: expected `tensor: `"),
        ("TRT-8601-EntropyCalibration2\na: 3f800000\na: 3f800000\n", "line 3: expected each tensor once"),
        ("TRT-8601-EntropyCalibration2\nx: 00000000\n", "above zero, got 0.0"),
        ("TRT-8601-EntropyCalibration2\nx: bf800000\n", "above zero, got -1.0"),
        ("TRT-8601-EntropyCalibration2\nx: 7f800000\n", "above zero, got inf"),
        ("TRT-8601-EntropyCalibration2\nx: ffc00000\n", "above zero, got nan"),
    ],
)
def test_a_wrong_line_is_named(lines, reason):
    with pytest.raises(DataError, match="calibration cache") as caught:
        read_cache(lines.encode())
    assert reason in str(caught.value)


def test_other_files_are_refused():
    with pytest.raises(DataError, match="expected text in UTF-8, got byte 0"):
        read_cache(b"\x89PNG\r\n")
    with pytest.raises(DataError, match="expected 64 MB at most, got 65 MB"):
        read_cache(bytes(65 << 20))


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf"), 1e-60, 1e60])
def test_scales_that_no_float32_holds_are_refused(scale):
    with pytest.raises(DataError, match="tensor 'x': expected a float32 scale above zero"):
        write_cache(CalibrationCache("8601", {"x": scale}))


@pytest.mark.parametrize("name", ["", "a\nb", "a\x00", "\u2028", " "])
def test_names_that_fit_on_no_line_are_refused(name):
    with pytest.raises(DataError, match="name that fits on a line"):
        write_cache(CalibrationCache("8601", {name: 1.0}))


@pytest.mark.parametrize(
    ("version", "number"),
    [
        ("8.5.2", "8502"),
        ("8.6.1.6", "8601"),
        ("8.5.10", "8510"),
        ("8.6", "8600"),
        ("10.3.0", "100300"),
        ("10.7", "100700"),
    ],
)
def test_a_version_is_numbered_as_tensorrt_does(version, number):
    assert version_number(version) == number


@pytest.mark.parametrize("version", ["", "8", "newest", "8.6.x", "8601"])
def test_what_is_no_version_is_refused(version):
    with pytest.raises(DataError, match=r"expected one as 8\.6\.1"):
        version_number(version)
    with pytest.raises(DataError, match="expected a version as 8601"):
        write_cache(CalibrationCache("8.6", {}))
