import json
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from avcompress.cli import app
from avcompress.recipe import ImageSource
from avcompress.spec import RecipeError
from calibration.images import open_images

TOPIC = "/front/image_raw/compressed"


@pytest.fixture
def drive(tmp_path, write_drive):
    """Ten PNG frames, a second apart, each 20 grey levels brighter."""
    frames = [(TOPIC, i, np.full((12, 16, 3), 20 + 20 * i, np.uint8)) for i in range(10)]
    return write_drive(tmp_path / "drive", frames)


def command(*arguments):
    found = CliRunner().invoke(app, ["data", "drive", *map(str, arguments)], obj=SimpleNamespace(install=lambda: None))
    if found.exception and not isinstance(found.exception, SystemExit):
        raise found.exception
    return found.exit_code, found.output


def test_a_drive_is_told_as_tables_and_json_and_its_images_are_a_folder(drive, tmp_path):
    code, said = command(
        drive, "--count", 4, "--json", tmp_path / "facts.json", "--out", tmp_path / "images", "--quiet"
    )
    assert code == 0
    assert f"drive, {TOPIC}: 16x12, 9.0 s" in said
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert (facts["read"], facts["distinct"], facts["taken"]) == (10, 10, 4)
    assert [share["distinct"] for share in facts["brightness"]] == [3, 5, 2]
    assert facts["settings"]["count"] == 4
    found = open_images(ImageSource(format="images", images="images"), tmp_path, None)
    assert len(found) == 4
    assert all(sample.image.shape == (12, 16, 3) for sample in found)


def test_what_is_there_is_not_overwritten_and_an_empty_range_is_refused(drive, tmp_path):
    (tmp_path / "images").mkdir()
    with pytest.raises(RecipeError, match="--out: expected a new folder"):
        command(drive, "--out", tmp_path / "images", "--quiet")
    with pytest.raises(RecipeError, match="--end-s: expected more than --start-s, 5, got 2"):
        command(drive, "--start-s", 5, "--end-s", 2)
