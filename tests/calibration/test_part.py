"""calibration.part: the parts of a source are the source."""

import numpy as np
import pytest
from PIL import Image

from avcompress.recipe import ImageSource, SceneSource
from avcompress.spec import DataError
from calibration.part import take_part
from calibration.source import open_source


@pytest.fixture
def folder(tmp_path):
    for i in range(7):
        Image.fromarray(np.full((4, 4, 3), i, np.uint8)).save(tmp_path / f"{i}.png")
    (tmp_path / "3.png").write_bytes(b"broken")
    return open_source(ImageSource(format="images", images=".", on_bad_image="skip"), tmp_path, None)


@pytest.fixture
def scenes(tmp_path):
    return open_source(SceneSource(format="scenes", count=5, size=(32, 48)), tmp_path, None)


@pytest.mark.parametrize("kind", ["folder", "scenes"])
@pytest.mark.parametrize("of", [1, 2, 3])
def test_the_parts_hold_each_image_once(kind, of, request):
    source = request.getfixturevalue(kind)

    parts = [take_part(source, number, of) for number in range(1, of + 1)]

    names = sorted(name for part in parts for name in part.names)
    assert names == sorted(source.names)
    assert sum(map(len, parts)) == len(source)
    images = {sample.name: sample.image for part in parts for sample in part}
    for sample in source:
        assert np.array_equal(images.pop(sample.name), sample.image)
    assert not images
    assert len({part.fingerprint for part in parts}) == of


def test_a_part_takes_every_nth_image(scenes):
    part = take_part(scenes, 2, 2)

    assert part.names == (scenes.names[1], scenes.names[3])
    assert part[1].name == scenes.names[3]
    assert part.classes == scenes.classes
    assert part.skipped == ()


def test_what_cannot_be_decoded_is_left_out_and_named(folder):
    parts = [take_part(folder, number, 2) for number in (1, 2)]

    assert [[sample.name for sample in part] for part in parts] == [
        ["0.png", "2.png", "4.png", "6.png"],
        ["1.png", "5.png"],
    ]
    assert parts[1].skipped == ("3.png",)


def test_an_empty_part_is_refused(scenes):
    with pytest.raises(
        DataError, match="--part 6/8: expected at most as many parts as images, 5, got one that is empty"
    ):
        take_part(scenes, 6, 8)
