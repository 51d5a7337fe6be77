import copy
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from avcompress.recipe import Recipe
from avcompress.recipe_load import load_recipe
from avcompress.spec import RecipeError

ROOT = Path(__file__).resolve().parents[2]

GOOD: dict[str, Any] = {
    "name": "small",
    "task": {"kind": "detection", "decode": "yolox"},
    "model": {"onnx": "net.onnx"},
    "preprocess": {"size": [64, 96]},
    "data": {
        "calibration": {"format": "images", "images": "train"},
        "validation": {"format": "coco", "images": "val", "labels": "val.json"},
        "train": [{"format": "images", "images": "day"}, {"format": "scenes", "count": 2}],
    },
    "stages": [{"kind": "ptq", "keep_float": {"head": True}}],
    "target": {"engines": [{"backend": "ort"}]},
    "contract": {"accuracy": [{"metric": "AP", "min": 0.2}]},
}


def write(folder: Path, recipe: dict[str, Any]) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return path


def message(path: Path) -> str:
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def changed(*keys: str | int, value: Any) -> dict[str, Any]:
    recipe = copy.deepcopy(GOOD)
    place: Any = recipe
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    return recipe


def test_a_good_recipe_loads(tmp_path: Path) -> None:
    assert load_recipe(write(tmp_path, GOOD)) == Recipe.model_validate(GOOD)


@pytest.mark.parametrize(
    ("keys", "place", "nearest"),
    [
        (("stagess",), "stagess", "stages"),
        (("data", "calibration", "limitt"), "data.calibration.limitt", "limit"),
        (("data", "train", 1, "limitt"), "data.train[1].limitt", "limit"),
        (("stages", 0, "keep_flot"), "stages[0].keep_flot", "keep_float"),
        (("stages", 0, "keep_float", "haed"), "stages[0].keep_float.haed", "head"),
        (("target", "engines", 0, "requird"), "target.engines[0].requird", "required"),
        (("model", "onx"), "model.onx", "onnx"),
        (("task", "nms_iuo"), "task.nms_iuo", "nms_iou"),
        (("contract", "accuracy", 0, "max_dorp"), "contract.accuracy[0].max_dorp", "max_drop"),
    ],
)
def test_a_misspelt_key_is_named_with_its_place_line_and_the_nearest_key(tmp_path, keys, place, nearest) -> None:
    path = write(tmp_path, changed(*keys, value=1))
    text = path.read_text().splitlines()
    line = next(i for i, row in enumerate(text, 1) if str(keys[-1]) in row)

    assert message(path) == f"{path}:{line}: {place}: unknown key; did you mean '{nearest}'?"


def test_a_key_that_resembles_none_gets_the_list_of_valid_ones(tmp_path: Path) -> None:
    assert "valid keys here: engines" in message(write(tmp_path, changed("target", "zzzzzz", value=1)))


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    recipe = {key: value for key, value in GOOD.items() if key != "contract"}
    assert "contract: expected this key, got nothing" in message(write(tmp_path, recipe))


def test_an_unknown_backend_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    found = message(write(tmp_path, changed("target", "engines", 0, "backend", value="tensort")))
    assert "target.engines[0]: expected one of 'ort', 'openvino', 'trt_rtx', 'trt', got 'tensort'" in found


@pytest.mark.parametrize(
    ("keys", "value", "expected"),
    [
        (("task", "nms_iou"), 1.5, "task.nms_iou: expected less than or equal to 1, got 1.5"),
        (("preprocess", "size"), [0, 4], "preprocess.size[0]: expected greater than 0, got 0"),
        (("contract",), {}, "contract: expected at least one term, got none"),
        (
            ("contract", "accuracy", 0),
            {"metric": "AP"},
            "contract.accuracy[0]: expected `min`, `max`, `max_drop`, `max_drop_relative` or `min_gain`",
        ),
        (("stages",), [], "stages: "),
        (("data", "train"), [], "data.train: "),
        (("data", "train", 0, "format"), "image", "data.train[0]: expected one of 'coco', 'kitti', 'masks', 'images'"),
        (("data", "train", 1), {"format": "scenes"}, "data.train[1].count: expected this key, got nothing"),
        (("data", "train"), {"format": "scenes"}, "data.train.count: expected this key, got nothing"),
        (("data", "train"), 3, "data.train: "),
    ],
)
def test_a_bad_value_is_named_with_what_was_expected(tmp_path: Path, keys, value, expected) -> None:
    assert expected in message(write(tmp_path, changed(*keys, value=value)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "got an empty file"),
        ("- a\n- b\n", "got sequence"),
        ("name: [1, 2\n", ":2: expected YAML"),
        ("name: a\nname: b\n", ":2: name: expected each key once"),
        ("name: &a\n  b: *a\n", "expected"),
        ("name: !!python/object/apply:os.system ['true']\n", "expected plain YAML values"),
    ],
)
def test_what_is_not_a_recipe_is_one_clear_line(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    assert expected in message(path)


def test_a_missing_file_a_folder_and_a_binary_file_are_named(tmp_path: Path) -> None:
    assert "got nothing there" in message(tmp_path / "none.yaml")
    assert str(tmp_path) in message(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x81")
    assert "binary.yaml" in message(tmp_path / "binary.yaml")


@given(st.text(max_size=40))
def test_any_text_loads_or_is_a_recipe_error(text: str) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        path.write_text(text, encoding="utf-8", errors="replace")
        with pytest.raises(RecipeError):
            load_recipe(path)


@given(
    key=st.sampled_from(["task", "model", "preprocess", "data", "stages", "target", "contract", "measure"]),
    value=st.recursive(
        st.none() | st.integers(-3, 3) | st.text("abc", max_size=3),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text("akind", max_size=4), inner, max_size=2),
    ),
)
def test_any_value_in_any_section_loads_or_is_one_line(key: str, value: Any) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder), changed(key, value=value))
        try:
            load_recipe(path)
        except RecipeError as error:
            assert "\n" not in str(error)
            assert str(path) in str(error)


def test_mean_and_std_on_a_scale_of_one_are_refused(tmp_path: Path) -> None:
    imagenet = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    path = write(tmp_path, changed("preprocess", value={"size": [64, 96], "scale": 1 / 255, **imagenet}))
    assert "preprocess: expected mean and std on the scale of pixels, 0-255" in message(path)

    scaled = {key: [255 * value for value in values] for key, values in imagenet.items()}
    load_recipe(write(tmp_path, changed("preprocess", value={"size": [64, 96], **scaled})))


def test_a_number_where_a_name_belongs_is_to_be_quoted(tmp_path: Path) -> None:
    path = write(tmp_path, changed("model", "output", value=378))
    assert message(path).endswith("model.output: expected text, got 378; put it in quotes")


def test_the_json_schema_for_editors_is_the_one_of_the_models() -> None:
    stored = json.loads((ROOT / "recipes" / "recipe.schema.json").read_text())
    assert stored == Recipe.model_json_schema(), "run: avcompress schema > recipes/recipe.schema.json"


def test_aliases_that_explode_when_written_out_take_no_time(tmp_path: Path) -> None:
    names = "abcdefghijklmnop"
    bomb = "\n".join(f"  {b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in itertools.pairwise(names))
    path = tmp_path / "recipe.yaml"
    path.write_text(f"name: x\nextra:\n  a: &a [x, x]\n{bomb}\nclasses: *p\n")

    assert len(message(path)) < 1000


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"[" * 5000, "brackets without end"),
        ("name: ä\n".encode("utf-16"), "not UTF-8"),
        (b"a: 1\n---\nb: 2\n", "expected YAML, got another document"),
        (b"? [a]\n: 1\n", "expected plain YAML values"),
        (b"a: !!python/object/apply:os.system [id]\n", "mend the file"),
    ],
)
def test_what_is_no_recipe_is_said_in_one_line(tmp_path: Path, content: bytes, part: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)

    assert part in message(path)
    assert len(message(path).splitlines()) == 1


def test_a_folder_is_no_recipe(tmp_path: Path) -> None:
    assert "Is a directory" in message(tmp_path)
    assert "Errno" not in message(tmp_path)


def test_every_mistake_says_what_to_do(tmp_path: Path) -> None:
    recipe = copy.deepcopy(GOOD)
    recipe["preprocess"]["std"] = "1,1,1"
    assert "preprocess.std: expected a list, got '1,1,1'; " in message(write(tmp_path, recipe))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("contract:", "contrct:"),
        ("decode:", "decod:"),
        ("kind: ptq", "knd: ptq"),
        ("backend:", "backnd:"),
        ("onnx:", "onx:"),
        ("format: images", "formt: images"),
    ],
)
def test_a_misspelt_required_key_is_answered_with_the_one_that_is_missing(tmp_path: Path, old: str, new: str) -> None:
    path = write(tmp_path, GOOD)
    path.write_text(path.read_text().replace(old, new, 1))
    wrong, right = new.partition(":")[0], old.partition(":")[0]

    found = message(path)
    assert wrong in found
    assert f"did you mean '{right}'" in found


def test_a_deadline_must_be_finite(tmp_path: Path) -> None:
    recipe = changed("contract", "latency", value=[{"deadline_ms": float("inf")}])
    assert "contract.latency[0].deadline_ms: expected a finite number" in message(write(tmp_path, recipe))


def test_a_search_file_is_told_from_a_recipe(tmp_path: Path) -> None:
    path = tmp_path / "search.yaml"
    path.write_text("name: x\nsearch: {budget_s: 1}\n")

    with pytest.raises(
        RecipeError, match=r"search\.yaml:2: search: expected a recipe, got a search file; use `avcompress"
    ):
        load_recipe(path)
