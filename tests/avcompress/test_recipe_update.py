"""The file of an update: mistakes are named by file, line and key; its keys are those of docs/update.md."""

import importlib.util
import re
from pathlib import Path

import pytest
import yaml

from avcompress.recipe_load import load_update
from avcompress.recipe_update import Learning, NewData, Replay, Update
from avcompress.spec import RecipeError

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "update.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
SECTIONS = {
    Update: "The file of an update",
    NewData: "The file of an update: data",
    Replay: "The file of an update: replay",
    Learning: "The file of an update: qat",
}
LINES = """name: fog
data:
  train: {format: images, images: fog}
replay: {share: 0.5}
qat:
  steps: 10
  batch_size: 4
forgetting:
  - {metric: mIoU, max_drop: 0.01}
"""


def refused(tmp_path: Path, old: str, new: str) -> str:
    assert old in LINES
    path = tmp_path / "update.yaml"
    path.write_text(LINES.replace(old, new))
    with pytest.raises(RecipeError) as error:
        load_update(path)
    return str(error.value).removeprefix(str(path))


def test_half_of_each_batch_is_old_and_the_float_network_teaches_unless_something_else_is_said(tmp_path):
    path = tmp_path / "update.yaml"
    path.write_text(LINES.replace("replay: {share: 0.5}\n", ""))

    found = load_update(path)

    assert (found.replay.share, found.replay.losses, found.qat.teacher, found.qat.kind) == (0.5, (), "self", "qat")
    assert (found.gain, found.range_images, found.data.validation) == ((), 128, None)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("  steps: 10", "  step: 10", ":6: qat.step: unknown key; did you mean 'steps'?"),
        ("max_drop: 0.01}", "max_drop: 2}", ":9: forgetting[0]: expected limits of mIoU in 0-1, got one above"),
        ("max_drop: 0.01}", "min: 0.5}", ":1: update: expected max_drop or max_drop_relative in forgetting[0]"),
        ("name: fog", "name: fog at night", ":1: name: expected a string to match pattern"),
        ("format: images,", "format: coco,", ":3: data.train.labels: expected this key, got nothing; add it"),
        ("share: 0.5", "share: 1.0", ":4: replay.share: expected less than 1"),
        ("share: 0.5", "share: 0.3", ":1: update: expected a replay.share that gives whole images of batch_size 4, "),
        ("share: 0.5", "share: 0.9999999999", ":1: update: expected a replay.share that gives whole images"),
        (
            "batch_size: 4",
            "batch_size: 4\n  accumulate: 4",
            "of batch_size 4 in 4 parts, and leaves a new one, got 0.5",
        ),
        ("  steps: 10", "  steps: 10\n  validate_every: 5", ":5: qat: expected no validate_every in an update"),
        (
            "share: 0.5",
            "share: 0.5, losses: [{kind: mutual}]",
            ":1: update: expected no `mutual` in replay.losses, which trains a second network; leave it out",
        ),
        (
            "forgetting:",
            "gain: [{metric: mIoU, min_gain: 0.1}]\nforgetting:",
            ":1: update: expected data.validation for `gain`, got none; add labelled new images, or leave it out",
        ),
        ("forgetting:\n  - {metric: mIoU, max_drop: 0.01}\n", "", ":1: forgetting: expected this key, got nothing"),
        ("  - {metric: mIoU, max_drop: 0.01}\n", "  []\n", ":8: forgetting: expected a tuple to have at least 1 item"),
    ],
)
def test_a_mistake_is_named_by_line_and_key(tmp_path, old, new, message):
    assert message in refused(tmp_path, old, new)


def test_a_file_that_is_none_is_told(tmp_path):
    with pytest.raises(RecipeError, match="expected an update file, got nothing there; give the path"):
        load_update(tmp_path / "gone.yaml")


@pytest.mark.parametrize("model", SECTIONS, ids=lambda model: model.__name__)
def test_every_key_is_documented_in_the_words_of_the_model(model):
    spec = importlib.util.spec_from_file_location("recipe_page", Path(__file__).parent / "test_recipe.py")
    page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    section = PAGE.partition(f"\n## {SECTIONS[model]}\n")[2].partition("\n## ")[0]
    listed = [line for line in section.splitlines() if line.startswith("| `")]
    rows = page.rows(model)
    if model is Learning:  # the others are those of the stage, in docs/recipe.md
        rows = [row for row in rows if row.split("`")[1] in {"losses", "teacher", "kind"}]

    assert listed == rows


@pytest.mark.parametrize("text", EXAMPLES)
def test_every_example_loads(text, tmp_path):
    path = tmp_path / "update.yaml"
    path.write_text(text)

    assert load_update(path) == Update.model_validate(yaml.safe_load(text))
