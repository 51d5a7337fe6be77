import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from avcompress.spec import DataError
from calibration.decode import decode_image, decode_image_bytes, decode_index_mask

RAMP = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)


def test_a_colour_png_is_its_own_pixels(tmp_path: Path) -> None:
    Image.fromarray(RAMP).save(tmp_path / "a.png")

    image = decode_image(tmp_path / "a.png")

    np.testing.assert_array_equal(image, RAMP)
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.ppm", "a.webp", "a.JPG", "a.jpeg"])
def test_every_extension_decodes_to_nearly_the_same_picture(tmp_path: Path, name: str) -> None:
    smooth = np.repeat(np.linspace(0, 255, 64, dtype=np.uint8)[None, :, None], 48, 0).repeat(3, 2)
    kind = {"webp": {"lossless": True}, "JPG": {"quality": 95}, "jpeg": {"quality": 95}}.get(name.split(".")[1], {})
    Image.fromarray(smooth).save(tmp_path / name, **kind)

    np.testing.assert_allclose(decode_image(tmp_path / name).astype(int), smooth, atol=3)


def test_opencv_decodes_the_same_pixels(tmp_path: Path) -> None:
    for name, image in {
        "rgb.png": RAMP,
        "grey.png": RAMP[:, :, 0],
        "alpha.png": np.dstack([RAMP, RAMP[:, :, 0]]),
        "deep.png": RAMP.astype(np.uint16) * 257,
        "deep_grey.png": RAMP[:, :, 0].astype(np.uint16) * 257 + 100,
    }.items():
        cv2.imwrite(str(tmp_path / name), image)
        expected = cv2.cvtColor(cv2.imread(str(tmp_path / name), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        np.testing.assert_array_equal(decode_image(tmp_path / name), expected, err_msg=name)


def test_palette_images_with_transparency_lose_it_without_a_warning(tmp_path: Path) -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 255, 0])
    palette.putdata([0, 1])
    palette.save(tmp_path / "p.png", transparency=bytes([0, 255]))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode_image(tmp_path / "p.png").tolist() == [[[255, 0, 0], [0, 255, 0]]]


@pytest.mark.parametrize("mode", ["L", "LA", "CMYK", "1", "YCbCr"])
def test_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    name = "a.jpg" if mode in ("CMYK", "YCbCr") else "a.png"
    Image.new("RGB", (8, 6), "white").convert(mode).save(tmp_path / name)

    assert decode_image(tmp_path / name).tolist() == np.full((6, 8, 3), 255).tolist()


def test_exif_orientation_is_left_alone(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(RAMP).save(tmp_path / "a.jpg", exif=exif)

    assert decode_image(tmp_path / "a.jpg").shape == (6, 8, 3)


def _truncated(path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-2000])


def _bomb(path: Path) -> None:
    header = struct.pack(">4sIIBBBBB", b"IHDR", 20000, 20000, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\r" + header + struct.pack(">I", zlib.crc32(header)))


def _gif(path: Path) -> None:
    Image.new("L", (4, 4)).save(path, format="GIF")


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("a.jpg", _truncated),
        ("a.png", _truncated),
        ("a.png", _bomb),
        ("a.jpg", _gif),
        ("a.png", lambda path: path.write_bytes(b"")),
        ("a.png", lambda path: path.write_text("not an image")),
        ("a.png", lambda path: path.mkdir()),
        ("a.png", str),
        ("a.ppm", lambda path: path.write_bytes(b"Pf\n1 1\n-1.0\n\0\0\0\0")),
    ],
    ids=["truncated-jpg", "truncated-png", "bomb", "gif", "empty", "text", "folder", "missing", "float"],
)
def test_what_cannot_be_read_is_named_in_one_line(tmp_path: Path, name: str, make: Callable[[Path], None]) -> None:
    make(tmp_path / name)

    with pytest.raises(DataError) as caught:
        decode_image(tmp_path / name)

    message = str(caught.value)
    assert message.startswith(f"{tmp_path / name}: expected ")
    assert ", got " in message
    assert "\n" not in message


def test_damaged_bytes_are_an_image_or_a_data_error(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "a"
    for suffix in ("PNG", "JPEG", "BMP", "WEBP", "PPM"):
        Image.fromarray(RAMP).save(path, format=suffix)
        whole = np.frombuffer(path.read_bytes(), np.uint8)
        for _ in range(40):
            damaged = whole.copy()
            damaged[rng.integers(0, min(len(whole), 120), 3)] = rng.integers(0, 256, 3)
            path.write_bytes(damaged.tobytes())
            try:
                assert decode_image(path).ndim == 3
            except DataError as error:
                assert str(error).startswith(str(path))


def test_an_index_mask_keeps_its_indices_whatever_its_palette(tmp_path: Path) -> None:
    palette = Image.new("P", (3, 1))
    palette.putpalette([9, 9, 9] * 3)
    palette.putdata([0, 1, 2])
    palette.save(tmp_path / "p.png")
    Image.fromarray(np.array([[0, 255]], np.uint8)).save(tmp_path / "l.png")
    Image.fromarray(np.array([[False, True]])).save(tmp_path / "1.png")

    assert decode_index_mask(tmp_path / "p.png").tolist() == [[0, 1, 2]]
    assert decode_index_mask(tmp_path / "l.png").tolist() == [[0, 255]]
    assert decode_index_mask(tmp_path / "1.png").tolist() == [[0, 1]]


def test_a_colour_image_is_no_index_mask(tmp_path: Path) -> None:
    Image.fromarray(RAMP).save(tmp_path / "a.png")

    with pytest.raises(DataError, match=r"got a RGB image; .*`colours`"):
        decode_index_mask(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "an empty file"), (b"<html>404</html>", "something else that begins with b'<html>404</html>'")],
)
def test_what_is_no_image_is_described_rather_than_repeated(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "a.jpg").write_bytes(content)

    with pytest.raises(DataError, match=f"got {reason}; replace the file, or leave it out with on_bad_image: skip"):
        decode_image(tmp_path / "a.jpg")
    with pytest.raises(DataError, match=f"got {reason}; replace the mask"):
        decode_index_mask(tmp_path / "a.jpg")


def test_a_large_image_warns_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")

    assert decode_image(tmp_path / "a.png").shape == (4, 4, 3)


def test_bytes_decode_as_the_file_of_that_content_does_and_errors_name_what_they_are_called(tmp_path: Path) -> None:
    Image.fromarray(RAMP).save(tmp_path / "a.jpg")
    data = (tmp_path / "a.jpg").read_bytes()
    np.testing.assert_array_equal(decode_image_bytes(data, "front", "mend it"), decode_image(tmp_path / "a.jpg"))
    for broken in (data[:-30], b"no image", b""):
        with pytest.raises(DataError, match=r"^front: expected a readable image, got .*; mend it$"):
            decode_image_bytes(broken, "front", "mend it")
