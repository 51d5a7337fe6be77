"""calibration.joined: several sources are one, in order, and their images are told apart."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from avcompress.recipe import ImageSource, SceneSource
from avcompress.spec import DataError
from calibration.joined import Joined, Part, join
from calibration.part import take_part
from calibration.source import open_source

SCENES = SceneSource(format="scenes", count=3, size=(32, 48))
DAY = ImageSource(format="images", images="day")
NIGHT = ImageSource(format="images", images="night", on_bad_image="skip")


@pytest.fixture
def root(tmp_path):
    for folder, count in (("day", 2), ("night", 3)):
        (tmp_path / folder).mkdir()
        for i in range(count):
            pixels = np.full((4, 4, 3), 10 * i + len(folder), np.uint8)
            Image.fromarray(pixels).save(tmp_path / folder / f"{i}.png")
    return tmp_path


def test_images_of_all_sources_come_in_the_order_of_the_list(root):
    source = open_source((DAY, NIGHT), root)

    assert source.names == ("day/0.png", "day/1.png", "night/0.png", "night/1.png", "night/2.png")
    assert [sample.name for sample in source] == list(source.names)
    assert [int(sample.image[0, 0, 0]) for sample in source] == [3, 13, 5, 15, 25]
    assert [source[i].name for i in (0, 2, 4, -1)] == ["day/0.png", "night/0.png", "night/2.png", "night/2.png"]
    assert len(source) == 5
    with pytest.raises(IndexError):
        source[5]


def test_each_source_is_limited_by_itself(root):
    source = open_source((DAY.model_copy(update={"limit": 1}), NIGHT.model_copy(update={"every": 2})), root)

    assert source.names == ("day/0.png", "night/0.png", "night/2.png")


def test_what_cannot_be_decoded_is_told_with_its_folder(root):
    (root / "night" / "1.png").write_bytes(b"broken")
    source = open_source((DAY, NIGHT), root)

    names = [sample.name for sample in source]

    assert names == ["day/0.png", "day/1.png", "night/0.png", "night/2.png"]
    assert source.skipped == ("night/1.png",)
    (root / "day" / "1.png").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"day/1\.png"):
        list(open_source((DAY, NIGHT), root))


def test_the_fingerprint_is_of_the_images_and_their_order(root):
    prints = {open_source(each, root).fingerprint for each in ((DAY, NIGHT), (NIGHT, DAY), (DAY,), DAY)}
    (root / "night" / "2.png").write_bytes((root / "night" / "0.png").read_bytes())

    prints.add(open_source((DAY, NIGHT), root).fingerprint)

    assert len(prints) == 5


def test_labelled_images_and_others_are_joined_and_keep_what_they_have(root):
    source = open_source((SCENES, DAY), root)

    assert source.classes == open_source(SCENES, root).classes
    assert [sample.boxes is not None for sample in source] == [True, True, True, False, False]


def test_sources_of_other_classes_and_images_that_are_listed_twice_are_refused(root):
    masks = SCENES.model_copy(update={"labels": "masks", "seed": 1})

    with pytest.raises(DataError, match=r"scenes: expected the classes of the sources before it, car, .* got "):
        open_source((SCENES, masks), root)
    with pytest.raises(DataError, match=r"day/0\.png: expected each image in one of the listed sources, got it in 2"):
        open_source((DAY, NIGHT, DAY), root)


@given(counts=st.lists(st.integers(1, 5), min_size=1, max_size=4), of=st.integers(1, 6))
def test_the_parts_of_several_machines_hold_each_image_once(counts, of):
    scenes = [SceneSource(format="scenes", count=n, seed=i, size=(32, 32)) for i, n in enumerate(counts)]
    source = join([Part("scenes", open_source(each, None)) for each in scenes])
    numbers = range(1, min(of, len(source)) + 1)

    parts = [take_part(source, number, of) for number in numbers]

    assert all(isinstance(part, Joined) for part in parts)
    assert [part.names for part in parts] == [source.names[number - 1 :: of] for number in numbers]
