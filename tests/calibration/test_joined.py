"""Several sources as one: the samples one after the other, each left out as it would be alone."""

import pytest

from avcompress.recipe import ImageSource, SceneSource
from calibration.images import open_images
from calibration.joined import join
from calibration.scenes import open_scenes


def scenes(count: int, seed: int = 0):
    return open_scenes(SceneSource.model_validate({"format": "scenes", "count": count, "size": (32, 32), "seed": seed}))


def test_the_samples_of_all_parts_come_one_after_the_other():
    first, second = scenes(2), scenes(3, seed=1)
    both = join([first, second])

    assert (len(both), both.classes) == (5, first.classes)
    assert both.names == (*first.names, *second.names)
    expected = [*first, *second]
    assert [s.image.tobytes() for s in both] == [s.image.tobytes() for s in expected]
    assert [both[i].image.tobytes() for i in range(5)] == [s.image.tobytes() for s in expected]
    with pytest.raises(IndexError):
        both[5]


def test_one_source_is_itself_and_another_order_has_another_fingerprint():
    first, second = scenes(2), scenes(2, seed=1)

    assert join([first]) is first
    assert join([first, second]).fingerprint != join([second, first]).fingerprint
    assert join([first, second]).fingerprint == join([scenes(2), scenes(2, seed=1)]).fingerprint


def test_what_a_part_leaves_out_is_left_out(tmp_path):
    good = next(iter(scenes(1))).image
    import numpy as np
    from PIL import Image

    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Image.fromarray(np.asarray(good)).save(tmp_path / folder / "good.png")
    (tmp_path / "b" / "bad.png").write_bytes(b"no image")
    parts = [
        open_images(ImageSource(format="images", images=name, on_bad_image="skip"), tmp_path, None) for name in "ab"
    ]

    both = join(parts)

    assert [sample.name for sample in both] == ["good.png", "good.png"]
    assert both.skipped == ("bad.png",)
