from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from avcompress.recipe import MaskSource
from avcompress.spec import DataError
from calibration.source import VOID, Source, open_source

CAMVID = (
    "Sky",
    "Building",
    "Pole",
    "Road",
    "Pavement",
    "Tree",
    "SignSymbol",
    "Fence",
    "Car",
    "Pedestrian",
    "Bicyclist",
)
COLOURS = {"road": (128, 64, 128), "car": (0, 0, 142), "void": (0, 0, 0)}


def write(root: Path, mask: Any, name: str = "a.png") -> Path:
    for folder in ("images", "labels"):
        (root / folder).mkdir(exist_ok=True)
    mask = np.array(mask, np.uint8)
    Image.new("RGB", mask.shape[1::-1]).save(root / "images" / "a.jpg")
    Image.fromarray(mask).save(root / "labels" / name)
    return root


def open_masks(root: Path, classes: tuple[str, ...] | None = ("road", "car"), **settings: Any) -> Source:
    return open_source(MaskSource(format="masks", images="images", labels="labels", **settings), root, classes)


def test_indices_are_kept_and_every_void_index_becomes_255(tmp_path: Path) -> None:
    source = open_masks(write(tmp_path, [[0, 1, 7], [255, 1, 0]]), void=(7, 255))

    mask = source[0].mask

    assert mask.tolist() == [[0, 1, VOID], [VOID, 1, 0]]
    assert mask.dtype == np.uint8
    assert source.classes == ("road", "car")
    assert source.names == ("a.jpg",)


def test_a_class_may_be_declared_void(tmp_path: Path) -> None:
    assert open_masks(write(tmp_path, [[0, 1]]), void=(0,))[0].mask.tolist() == [[VOID, 1]]


def test_an_index_without_class_is_named_with_its_pixels(tmp_path: Path) -> None:
    root = write(tmp_path, [[0, 2, 2], [5, 255, 0]])

    with pytest.raises(DataError, match=r"labels/a\.png: expected class indices 0\.\.1, got 2 in 2 pixels"):
        open_masks(root)[0]


def test_255_is_an_error_where_void_is_another_index(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="got 255 in 1 pixels"):
        open_masks(write(tmp_path, [[0, 255]]), void=(11,))[0]


def test_colours_are_looked_up_by_name(tmp_path: Path) -> None:
    root = write(tmp_path, [[COLOURS["car"], COLOURS["void"]], [COLOURS["road"], COLOURS["car"]]])

    assert open_masks(root, colours=COLOURS)[0].mask.tolist() == [[1, VOID], [0, 1]]
    assert open_masks(root, ("tree", "car", "road"), colours=COLOURS)[0].mask.tolist() == [[1, VOID], [2, 1]]
    own = open_masks(root, None, colours=COLOURS)
    assert own.classes == ("road", "car")
    assert own[0].mask.tolist() == [[1, VOID], [0, 1]]


def test_many_random_colours_are_all_found_again(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    palette = np.unique(rng.integers(0, 256, (60, 3)), axis=0)
    indices = rng.integers(0, len(palette), (30, 40))
    order = rng.permutation(len(palette))
    colours = {f"class {n}": tuple(palette[n].tolist()) for n in order}
    names = tuple(f"class {n}" for n in range(len(palette)))

    source = open_masks(write(tmp_path, palette[indices]), names, colours=colours)

    np.testing.assert_array_equal(source[0].mask, indices)


def test_an_unlisted_colour_is_named_with_its_pixels(tmp_path: Path) -> None:
    root = write(tmp_path, [[COLOURS["car"], (1, 2, 3)], [(1, 2, 3), (255, 255, 255)]])

    with pytest.raises(DataError, match=r"labels/a\.png: .* got \(1, 2, 3\) in 2 pixels"):
        open_masks(root, colours=COLOURS)[0]


@pytest.mark.parametrize(
    ("colours", "message"),
    [
        ({"raod": (1, 1, 1)}, r"colours\.raod: .* the nearest class is 'road'"),
        ({"road": (1, 1, 1), "car": (1, 1, 1)}, r"colours\.car: .*\(1, 1, 1\) twice"),
        ({"road": (1, 1, 256)}, r"colours\.road: expected red, green, blue in 0\.\.255"),
    ],
)
def test_a_broken_colour_table_is_named(tmp_path: Path, colours: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_masks(write(tmp_path, [[0]]), colours=colours)


def test_index_masks_need_class_names(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected class names .* give `classes`"):
        open_masks(write(tmp_path, [[0]]), None)


def test_more_classes_than_a_mask_can_hold_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected at most 255, got 256"):
        open_masks(write(tmp_path, [[0]]), tuple(map(str, range(256))))


def test_a_mask_of_another_size_is_named(tmp_path: Path) -> None:
    root = write(tmp_path, [[0, 1], [0, 1]])
    Image.new("RGB", (4, 2)).save(root / "images" / "a.jpg")

    with pytest.raises(DataError, match=r"labels/a\.png: expected the image's size 4x2, got 2x2"):
        open_masks(root)[0]


def test_a_missing_mask_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"labels/a\.png: expected the mask of an image, 1 of 1 are missing"):
        open_masks(write(tmp_path, [[0]], "b.png"))


def test_a_broken_mask_fails_even_where_bad_images_are_skipped(tmp_path: Path) -> None:
    root = write(tmp_path, [[0]])
    (root / "labels" / "a.png").write_bytes(b"broken")

    with pytest.raises(DataError, match=r"labels/a\.png"):
        list(open_masks(root, on_bad_image="skip"))


def test_masks_among_the_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a folder of their own"):
        open_source(MaskSource(format="masks", images="labels", labels="labels"), write(tmp_path, [[0]]), ("road",))


def test_the_fingerprint_follows_mask_bytes_and_void(tmp_path: Path) -> None:
    root = write(tmp_path, [[0, 1]])
    before = open_masks(root).fingerprint

    assert open_masks(root, void=(1, 255)).fingerprint != before
    assert open_masks(write(tmp_path, [[1, 1]])).fingerprint != before


@pytest.mark.parametrize(("split", "count"), [("train", 367), ("val", 101)])
def test_camvid_loads_with_eleven_classes_and_void_eleven(data_root: Path, split: str, count: int) -> None:
    settings = MaskSource(
        format="masks", images=f"camvid/images/{split}", labels=f"camvid/labels/{split}", void=(11,), every=5
    )

    source = open_source(settings, data_root, CAMVID)
    pixels = sum(np.bincount(sample.mask.ravel(), minlength=256) for sample in source)

    assert len(source) == -(-count // 5)
    assert set(np.flatnonzero(pixels)) == {*range(11), VOID}
    raw = [Image.open(data_root / f"camvid/labels/{split}" / name).convert("L") for name in _stems(source)]
    assert pixels[VOID] == sum(int((np.asarray(mask) == 11).sum()) for mask in raw)


def _stems(source: Source) -> list[str]:
    return [f"{Path(name).stem}.png" for name in source.names]


def test_masks_in_sub_folders_with_other_endings_are_found(tmp_path: Path) -> None:
    for place, ending in (("images/aachen", "_leftImg8bit"), ("labels/aachen", "_gtFine_labelTrainIds")):
        (tmp_path / place).mkdir(parents=True)
        Image.fromarray(np.array([[0, 1]], np.uint8)).save(tmp_path / place / f"a_1{ending}.png")
    Image.new("RGB", (2, 1)).save(tmp_path / "images" / "aachen" / "a_1_rightImg8bit.png")

    source = open_masks(tmp_path, recursive=True, image_suffix="_leftImg8bit", label_suffix="_gtFine_labelTrainIds")

    assert source.names == ("aachen/a_1_leftImg8bit.png",)
    assert source[0].mask.tolist() == [[0, 1]]


def test_an_ending_that_no_image_has_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"images/a\.jpg: expected a stem that ends in '_rgb', got 1 images without"):
        open_masks(write(tmp_path, [[0]]), image_suffix="_rgb")


def test_a_missing_mask_is_answered_with_the_keys_for_other_endings(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"labels/a\.png: expected the mask of an image, .*`label_suffix`"):
        open_masks(write(tmp_path, [[0]], name="a_mask.png"))

    assert open_masks(tmp_path, label_suffix="_mask")[0].mask.tolist() == [[0]]
