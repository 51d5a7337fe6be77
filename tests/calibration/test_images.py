from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from avcompress.recipe import ImageSource
from avcompress.spec import DataError
from calibration.source import Source, open_source


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six images whose pixels are their number, and things that are no images."""
    (tmp_path / "images" / "sub.png").mkdir(parents=True)
    for n, name in enumerate(["b.png", "a.png", "c.BMP", "e.Jpeg", "d.webp", "f.ppm"]):
        Image.new("RGB", (4, 3), (n * 40, n * 40, n * 40)).save(tmp_path / "images" / name)
    for name in ("readme.txt", ".hidden.png", "b.txt"):
        (tmp_path / "images" / name).write_text("no image")
    return tmp_path


def open_images(root: Path, **settings: object) -> Source:
    return open_source(ImageSource(format="images", images="images", **settings), root)


def test_images_come_sorted_by_name_and_nothing_else_comes(folder: Path) -> None:
    source = open_images(folder)

    samples = list(source)

    assert source.names == ("a.png", "b.png", "c.BMP", "d.webp", "e.Jpeg", "f.ppm")
    assert tuple(sample.name for sample in samples) == source.names
    assert [round(sample.image[0, 0, 0] / 40) for sample in samples] == [1, 0, 2, 4, 3, 5]
    assert all(sample.boxes is None and sample.mask is None for sample in samples)
    assert len(source) == 6
    assert source[1].name == "b.png"
    assert source.classes == ()


def test_every_and_limit_choose_in_that_order(folder: Path) -> None:
    assert open_images(folder, every=2).names == ("a.png", "c.BMP", "e.Jpeg")
    assert open_images(folder, every=2, limit=2).names == ("a.png", "c.BMP")
    assert open_images(folder, skip=1, every=2).names == ("b.png", "d.webp", "f.ppm")
    assert open_images(folder, limit=100).names == open_images(folder).names


def test_a_bad_image_fails_the_run_unless_it_may_be_skipped(folder: Path) -> None:
    (folder / "images" / "c.BMP").write_bytes(b"BM broken")

    with pytest.raises(DataError, match=r"c\.BMP: expected a readable image"):
        list(open_images(folder))

    source = open_images(folder, on_bad_image="skip")
    assert source.skipped == ()
    assert [sample.name for sample in source] == ["a.png", "b.png", "d.webp", "e.Jpeg", "f.ppm"]
    assert len(list(source)) == 5
    assert source.skipped == ("c.BMP",)
    with pytest.raises(DataError, match=r"c\.BMP"):
        source[2]


def test_when_every_image_is_skipped_the_run_fails(folder: Path) -> None:
    for path in (folder / "images").iterdir():
        if path.is_file():
            path.write_bytes(b"broken")

    with pytest.raises(DataError, match="expected a readable image, got 6 that are not"):
        list(open_images(folder, on_bad_image="skip"))


def test_an_empty_folder_is_an_error_that_names_the_folder(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()

    with pytest.raises(DataError) as caught:
        open_images(tmp_path, every=3)

    assert str(caught.value).startswith(f"{tmp_path / 'images'}: expected images (")
    assert str(caught.value).endswith("got none")


def test_images_of_sub_folders_are_taken_when_asked_for(tmp_path: Path) -> None:
    for name in ("images/b/2.png", "images/a/x/1.png", "images/.cache/0.png", "images/a/.1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 3)).save(tmp_path / name)

    with pytest.raises(DataError, match="got none; set `recursive: true`"):
        open_images(tmp_path)
    assert open_images(tmp_path, recursive=True).names == ("a/x/1.png", "b/2.png")


@pytest.mark.parametrize("make", [str, lambda path: path.write_text("a file")], ids=["missing", "file"])
def test_a_folder_that_is_none_is_an_error(tmp_path: Path, make) -> None:
    make(tmp_path / "images")

    with pytest.raises(DataError, match="expected a folder of images, got"):
        open_images(tmp_path)


def test_the_fingerprint_follows_names_and_sizes_and_not_the_place(folder: Path, tmp_path: Path) -> None:
    before = open_images(folder).fingerprint
    assert before == open_images(folder).fingerprint
    assert len(before) == 64
    assert before != open_images(folder, limit=5).fingerprint

    moved = folder.rename(tmp_path.parent / f"{tmp_path.name}_moved")
    assert open_images(moved).fingerprint == before

    Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8)).save(moved / "images" / "a.png")
    assert open_images(moved).fingerprint != before


def test_opening_and_fingerprinting_decode_nothing(folder: Path) -> None:
    (folder / "images" / "a.png").write_bytes(b"broken")

    source = open_images(folder)

    assert source.names[0] == "a.png"
    assert source.fingerprint


def test_an_image_removed_after_opening_is_named(folder: Path) -> None:
    source = open_images(folder)
    (folder / "images" / "a.png").unlink()

    with pytest.raises(DataError, match=r"a\.png"):
        source[0]
    with pytest.raises(DataError, match=r"a\.png"):
        source.fingerprint  # noqa: B018


def test_a_link_that_leads_nowhere_is_named_and_not_left_out_in_silence(folder: Path) -> None:
    (folder / "images" / "aa.png").symlink_to(folder / "nowhere.png")

    with pytest.raises(DataError, match=r"aa\.png: expected an image, 1 of 7 are missing"):
        open_images(folder)
    assert open_images(folder, on_bad_image="skip").skipped == ("aa.png",)
