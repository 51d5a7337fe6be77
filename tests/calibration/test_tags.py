import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from avcompress.recipe import ImageSource, MaskSource, SceneSource, SourceSettings
from avcompress.spec import DataError, RecipeError
from calibration.part import take_part
from calibration.source import open_source
from calibration.tags import read_tags

NAMES = ("day/a.png", "day/b.png", "night/c.png")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in NAMES:
        for kind in ("images", "labels"):
            path = tmp_path / kind / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.zeros((4, 6), np.uint8)).save(path)
    return tmp_path


def write(root: Path, content: Any) -> Path:
    (root / "tags.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return root


def test_images_and_masks_take_tags_by_their_names(folder: Path) -> None:
    write(folder, {"night/c.png": {"light": "night", "lamps": True, "speed": 0.5, "note": None}})
    images = ImageSource(format="images", images="images", recursive=True, tags="tags.json")
    masks = MaskSource(format="masks", images="images", labels="labels", recursive=True, tags="tags.json")

    for source in (open_source(images, folder), open_source(masks, folder, ("road",))):
        assert [dict(sample.tags) for sample in source] == [{}, {}, {"light": "night", "lamps": "true", "speed": "0.5"}]
        assert dict(source[2].tags) == dict(take_part(source, 3, 3)[0].tags)


def test_a_tag_changes_the_fingerprint_and_an_image_left_out_does_not(folder: Path) -> None:
    def fingerprint(content: Any, **settings: Any) -> str:
        write(folder, content)
        every = ImageSource(format="images", images="images", recursive=True, tags="tags.json", **settings)
        return open_source(every, folder).fingerprint

    assert fingerprint({}) != fingerprint({"day/a.png": {"rain": True}})
    assert fingerprint({}, limit=1) == fingerprint({"night/c.png": {"light": "night"}}, limit=1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"tags\.json: expected JSON"),
        ("\x00", r"tags\.json: expected JSON"),
        ("[" * 100_000, r"tags\.json: expected JSON"),
        ([], r"tags\.json: expected a JSON object, image name -> \{tag: value\}, got a list"),
        (
            {"d.png": {}},
            r"tags\.json: expected the names of images, got 'd\.png' that no image has; write them as 'day/a",
        ),
        ({"x": {}, "y": {}, "day/a.png": {}}, "got 'x' and 1 more that no image has"),
        ({"day/a.png": "night"}, r"day/a\.png: expected \{tag: value\}, .* got 'night'"),
        ({"day/a.png": {"light": ["night"]}}, r"day/a\.png: expected \{tag: value\}"),
    ],
)
def test_what_is_no_file_of_tags_is_one_line(folder: Path, content: Any, message: str) -> None:
    write(folder, content)

    with pytest.raises(DataError, match=message) as caught:
        read_tags(SourceSettings(tags="tags.json"), folder, NAMES)

    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"tags\.json: expected a readable file"):
        read_tags(SourceSettings(tags="tags.json"), tmp_path, NAMES)


def test_scenes_bring_their_own_tags(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="tags: expected none of scenes"):
        open_source(SceneSource(format="scenes", count=1, tags="tags.json"), tmp_path)
