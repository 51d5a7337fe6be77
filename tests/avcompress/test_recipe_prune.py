"""What a recipe says of making a network smaller."""

import pytest
from pydantic import ValidationError

from avcompress.recipe_load import load_recipe
from avcompress.recipe_prune import Prune, ScoreFile, ScoreFunction, Sparsify
from avcompress.spec import RecipeError

TRAIN = {"kind": "train", "steps": 3}


def prune(**changes: object) -> Prune:
    return Prune.model_validate({"kind": "prune", "ratio": 0.5} | changes)


def test_importance_is_a_name_a_file_or_a_function():
    assert prune(importance="fpgm").importance == "fpgm"
    assert prune(importance={"file": "s.json"}).importance == ScoreFile(file="s.json")
    assert prune(importance={"function": "own:scores"}).importance == ScoreFunction(function="own:scores")


def test_what_is_fitted_to_nothing_needs_no_images():
    assert prune(images=1, fit=False).images == 1
    assert prune(images=1, schedule="during_training", recover=TRAIN).images == 1


def test_an_alignment_is_a_number_or_one_by_pattern_with_a_usual_one():
    assert prune(align=8).alignments == (8, ())
    assert prune().alignments == (1, ())
    assert prune(align={"/head*": 16, "*/conv": 4}).alignments == (1, (("/head*", 16), ("*/conv", 4)))
    assert prune(align={"/head*": 16, "*": 8}).alignments == (8, (("/head*", 16),))


def test_parts_are_those_of_the_schedule():
    assert prune().parts == 1
    assert prune(schedule="iterative", recover=TRAIN).parts == 4
    assert prune(schedule="iterative", rounds=3).parts == 3  # fitted in between
    assert prune(schedule="during_training", recover=TRAIN, rounds=7).parts == 7
    assert Sparsify(kind="sparsify", pattern="2:4").share == 0.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ratio": None}, "expected one of ratio, speedup and deadline_ms, got none of them"),
        ({"speedup": 2}, "expected one of ratio, speedup and deadline_ms, got ratio and speedup"),
        ({"ratio": 1}, "less than 1"),
        ({"backend": "ort"}, "expected no backend beside ratio, got ort"),
        ({"ratio": 0.95}, "expected a floor of at most 0.05, which the ratio of 0.95 leaves, got 0.1; lower one"),
        ({"images": 3}, "expected 4 images at least with fit, got 3; give more, or set fit: false"),
        ({"align": {}}, "expected patterns with their widths, got none; add one, or leave align out"),
        ({"align": {"*": 8, "/head*": 16}}, r"expected '\*' behind all other patterns, got it before '/head\*'"),
        ({"align": {"/head*": 0}}, "greater than 0"),
        ({"recover": TRAIN}, "expected no recover with schedule: one_shot"),
        ({"rounds": 3}, "expected no rounds with schedule: one_shot"),
        ({"schedule": "iterative", "fit": False}, "expected `recover` for schedule: iterative, got nothing"),
        ({"schedule": "during_training"}, "expected `recover` for schedule: during_training, got nothing"),
        (
            {"ratio": None, "speedup": 2, "schedule": "during_training", "recover": TRAIN},
            "expected ratio with schedule: during_training",
        ),
    ],
)
def test_settings_of_pruning_that_contradict_each_other_are_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        prune(**changes)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "expected sparsity with pattern: unstructured, got nothing"),
        ({"pattern": "2:4", "sparsity": 0.5}, "expected no sparsity with pattern: 2:4, which is a half, got 0.5"),
        ({"pattern": "2:4", "scope": "global"}, "expected scope: local and schedule: one_shot with pattern: 2:4"),
        ({"sparsity": 0.5, "schedule": "gradual"}, "expected `recover` with schedule: gradual .* got gradual without"),
        ({"sparsity": 0.5, "recover": TRAIN}, "expected `recover` with schedule: gradual .* got one_shot with it"),
    ],
)
def test_settings_of_sparsity_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        Sparsify.model_validate({"kind": "sparsify"} | settings)


RECIPE = """
name: x
task: {kind: segmentation}
model: {onnx: a.onnx}
preprocess: {size: [8, 8]}
data:
  calibration: {format: scenes, count: 1}
  validation: {format: scenes, count: 1}
target: {engines: [{backend: ort}]}
contract: {accuracy: [{metric: mIoU, min: 0}]}
stages:
  - STAGE
"""


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ("{kind: prune, ratio: .5, importance: l3}", r"recipe\.yaml:11: stages\[0\]\.importance: expected 'l1', 'l2'"),
        (
            "{kind: prune, ratio: .5, importance: {fil: a}}",
            r"stages\[0\]\.importance\.fil: unknown key; did you mean 'file'\?",
        ),
        ("{kind: prune, ratio: .5, exclud: a}", r"stages\[0\]\.exclud: unknown key; did you mean 'exclude'\?"),
        ("{kind: prune, ratio: .5, align: 0}", r"stages\[0\]\.align: expected greater than 0, got 0; mend it$"),
        ("{kind: prune, ratio: .5, align: {/head*: 0}}", r"\.align\./head\*: expected greater than 0, got 0; mend it$"),
        (
            "{kind: prune, ratio: .5, schedule: iterative, recover: {kind: train, step: 3}}",
            r"stages\[0\]\.recover\.step: unknown key; did you mean 'steps'\?",
        ),
        ("{kind: factorize, rank: {energy: 2}}", r"stages\[0\]\.rank\.energy: expected less than 1, got 2"),
        ("{kind: factorize, rank: {speedu: 2}}", r"stages\[0\]\.rank\.speedu: unknown key; did you mean 'speedup'\?"),
        (
            "{kind: distill, steps: 1, teacher: myself, losses: [{kind: soft}]}",
            r"\.teacher: expected 'self', got 'myself'",
        ),
    ],
)
def test_mistakes_are_named_by_file_line_and_key(tmp_path, stage, message):
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.strip().replace("STAGE", stage))

    with pytest.raises(RecipeError, match=message):
        load_recipe(path)
