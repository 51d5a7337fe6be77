from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from avcompress.recipe_load import load_recipe
from avcompress.search.trials.space import load_space
from avcompress.search.trials.tiers import at_share, tier_of
from avcompress.search.trials.writing import recipe_text
from avcompress.spec import RecipeError

Searched = Callable[..., Path]


def refusal(path: Path) -> str:
    with pytest.raises(RecipeError) as error:
        load_space(path)
    return str(error.value)


def line_with(path: Path, text: str) -> int:
    return next(number for number, line in enumerate(path.read_text().splitlines(), 1) if text in line)


def test_a_suggestion_gives_an_ordinary_recipe(searched: Searched) -> None:
    space = load_space(searched())
    recipe = space.recipe({"stages[0]": 1, "stages[1].ranges": 2, "stages[2]": 1, "stages[2]=1.images": 5})

    assert [stage.kind for stage in recipe.stages] == ["equalize", "ptq", "correct_bias"]
    assert (recipe.stages[1].ranges, recipe.stages[2].images) == ("entropy", 5)
    assert space.settings.seed == 0


def test_a_recipe_that_is_written_reads_as_it_was(searched: Searched, tmp_path: Path) -> None:
    recipe = load_space(searched()).recipe({"stages[0]": 1, "stages[1].ranges": 1})
    file = tmp_path / "trial" / "recipe.yaml"
    file.parent.mkdir()
    file.write_text(recipe_text(recipe, tmp_path, file.parent))

    assert load_recipe(file) == recipe


def test_folders_that_code_is_imported_from_are_the_same_from_where_the_trial_lies(
    searched: Searched, tmp_path: Path
) -> None:
    stages = [{"kind": "train", "steps": 1, "loss": "mine:loss", "import_from": "code"}, *load_stages()]
    recipe = load_space(searched(stages)).recipe({})

    text = recipe_text(recipe, tmp_path, tmp_path / "out" / "trials" / "a")

    assert yaml.safe_load(text)["stages"][0]["import_from"] == "../../../code"


def load_stages() -> list[Any]:
    return [{"kind": "ptq", "ranges": {"choose": ["mse", "minmax"]}}]


def test_an_unknown_key_in_an_option_that_comes_last_is_told_with_its_line(searched: Searched) -> None:
    path = searched([{"choose": [{"kind": "ptq"}, {"kind": "ptq", "rnages": "mse"}]}])

    message = refusal(path)

    assert f"recipe.yaml:{line_with(path, 'rnages')}: " in message
    assert "did you mean 'ranges'" in message


def test_an_unknown_stage_in_an_option_is_told_with_its_line(searched: Searched) -> None:
    path = searched([{"choose": [{"kind": "ptq"}, {"kind": "quantise"}]}])

    assert f"recipe.yaml:{line_with(path, '- kind: quantise')}: " in refusal(path)


def test_an_end_of_a_range_that_no_recipe_may_have_is_refused(searched: Searched) -> None:
    path = searched([*load_stages(), {"kind": "correct_bias", "images": {"between": [0, 6]}}])

    # YAML has the key on the line above.
    assert f"recipe.yaml:{line_with(path, 'between') - 1}: stages[1].images: " in refusal(path)


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"trails": 3}, "trails: unknown key; did you mean 'trials'"),
        ({"shares": [1.0, 0.5]}, "expected rising shares that end with 1"),
        ({"budget_s": 0}, "budget_s"),
    ],
)
def test_a_mistake_in_the_section_is_told_with_its_line(
    searched: Searched, search: dict[str, Any], message: str
) -> None:
    path = searched(**search)
    told = refusal(path)

    assert message in told
    assert f"recipe.yaml:{line_with(path, next(iter(search)))}" in told or "shares" in search


def test_a_space_without_a_choice_is_refused(searched: Searched) -> None:
    assert "expected something to choose" in refusal(searched([{"kind": "ptq"}]))


def test_a_recipe_without_the_section_is_refused(searched: Searched) -> None:
    path = searched()
    recipe = yaml.safe_load(path.read_text())
    del recipe["search"]
    path.write_text(yaml.safe_dump(recipe))

    assert "search: expected this section" in refusal(path)


def test_the_contract_is_not_for_choice(searched: Searched, job: dict[str, Any]) -> None:
    job["contract"]["accuracy"][0]["min"] = {"choose": [0.1, 0.2]}

    assert "contract.accuracy[0].min: expected choices in stages, model" in refusal(searched())


def test_a_contract_that_contradicts_itself_is_refused(searched: Searched, job: dict[str, Any]) -> None:
    job["contract"]["accuracy"] = [{"metric": "mIoU", "min": 0.9}, {"metric": "mIoU", "max": 0.5}]

    told = refusal(searched())

    assert "expected limits that one network can keep, got mIoU >= 0.9 and mIoU <= 0.5" in told


def test_a_share_thins_the_validation_images_and_shortens_training_and_leaves_calibration(
    searched: Searched,
) -> None:
    stages = [*load_stages(), {"kind": "qat", "steps": 100}]
    recipe = load_space(searched(stages)).recipe({})

    quarter = at_share(recipe, 0.25)

    assert (quarter.data.validation.every, quarter.stages[1].steps) == (4, 25)
    assert quarter.data.calibration == recipe.data.calibration
    assert at_share(recipe, 1) is recipe
    assert (tier_of(recipe), tier_of(load_space(searched()).recipe({}))) == (2, 0)


def test_a_share_leaves_terms_on_slices_to_the_whole_trial(searched: Searched, job: dict[str, Any]) -> None:
    job["contract"]["accuracy"] = [
        {"metric": "mIoU", "min": 0.5, "decide": "proven_kept"},
        {"metric": "mIoU", "min": 0.1, "slice": "brightness:dark"},
    ]
    recipe = load_space(searched()).recipe({})

    (term,) = at_share(recipe, 0.5).contract.accuracy

    assert (term.slice, term.decide, term.min) == (None, "point", 0.5)


TRAINED = {"kind": "train", "steps": 10, "loss": "cross_entropy"}
PRUNED = {"kind": "prune", "ratio": 0.3, "schedule": "iterative"}
QAT = {"kind": "qat", "steps": 9}


@pytest.mark.parametrize(
    ("stages", "tiers"),
    [
        ([{"kind": "ptq"}, {"kind": {"choose": ["correct_bias", "adaround", "reconstruct"]}}], [(0, 1, 1)]),
        ([{"choose": [None, {**PRUNED, "recover": TRAINED}]}, {"kind": "ptq"}], [(0, 2)]),
        ([{**PRUNED, "recover": {"choose": [None, TRAINED]}}, {"kind": "ptq"}], [(1, 2)]),
        ([{"choose": [[QAT], {"kind": "adaround"}]}, {"choose": [QAT, None]}],
         [(2, 1), (2, 1)]),
        ([{"choose": [{"kind": {"choose": ["adaround", "correct_bias"]}}, {"kind": "reconstruct"}]}], [(0, 1), (1, 0)]),
    ],
    ids=["kind", "training within a stage", "what a stage trains by", "both dear at first", "within an option"],
)  # fmt: skip
def test_an_option_costs_what_the_cheapest_recipe_with_it_does_wherever_it_stands(
    searched: Searched, stages: list[Any], tiers: list[tuple[int, ...]]
) -> None:
    stages = stages if {"kind": "ptq"} in stages else [{"kind": "ptq"}, *stages]

    assert [choice.tiers for choice in load_space(searched(stages)).choices] == tiers
