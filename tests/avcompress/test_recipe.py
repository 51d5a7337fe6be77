"""docs/recipe.md: every key in the words of the models, and every example a recipe that loads."""

import re
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest
import yaml
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from avcompress import contract, recipe_distill, recipe_lowrank, recipe_network, recipe_prune, recipe_training
from avcompress import recipe as layout
from avcompress.frozen import Model
from avcompress.recipe import Recipe
from avcompress.recipe_load import load_recipe

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "recipe.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
SECTIONS = {
    "Recipe": "The recipe",
    "Detection": "task: detection",
    "Segmentation": "task: segmentation",
    "OnnxModel": "model: an ONNX file",
    "TorchModel": "model: a torch module",
    "SavedModel": "model: a network that was made smaller",
    "Preprocess": "preprocess",
    "Data": "data",
    "ImageSource": "data, format: images",
    "CocoSource": "data, format: coco",
    "KittiSource": "data, format: kitti",
    "MaskSource": "data, format: masks",
    "RosbagSource": "data, format: rosbag",
    "SceneSource": "data, format: scenes",
    "GeneratedSource": "data, format: generated",
    "Train": "stages, kind: train",
    "Distill": "stages, kind: distill",
    "Prune": "stages, kind: prune",
    "ScoreFile": "importance: a file",
    "ScoreFunction": "importance: a function",
    "Factorize": "stages, kind: factorize",
    "Rewrite": "stages, kind: rewrite",
    "Energy": "rank: energy",
    "Speedup": "rank: speedup",
    "Sparsify": "stages, kind: sparsify",
    "Labels": "losses, kind: labels",
    "Soft": "losses, kind: soft",
    "Features": "losses, kind: features",
    "Attention": "losses, kind: attention",
    "ChannelWise": "losses, kind: cwd",
    "Masked": "losses, kind: mgd",
    "Localisation": "losses, kind: localisation",
    "Response": "losses, kind: response",
    "Itself": "losses, kind: self",
    "Mutual": "losses, kind: mutual",
    "Tap": "losses, taps",
    "Augment": "stages, augment",
    "Equalize": "stages, kind: equalize",
    "Smooth": "stages, kind: smooth",
    "Ptq": "stages, kind: ptq",
    "Dynamic": "stages, kind: dynamic",
    "WeightOnly": "stages, kind: weight_only",
    "KeepFloat": "stages, keep_float",
    "Mixed": "stages, mixed",
    "CorrectBias": "stages, kind: correct_bias",
    "AdaRound": "stages, kind: adaround",
    "Reconstruct": "stages, kind: reconstruct",
    "Qat": "stages, kind: qat",
    "Cast": "stages, kind: cast",
    "Target": "target",
    "OrtEngine": "target.engines, backend: ort",
    "OrtProvider": "target.engines, providers",
    "OpenVinoEngine": "target.engines, backend: openvino",
    "RtxEngine": "target.engines, backend: trt_rtx",
    "TrtEngine": "target.engines, backend: trt",
    "Contract": "contract",
    "AccuracyTerm": "contract.accuracy",
    "LatencyTerm": "contract.latency",
    "SpeedupTerm": "contract.speedup",
    "DriftTerm": "contract.drift",
    "Int8Term": "contract.int8",
    "Validation": "validation",
    "Measure": "measure",
}
ABSTRACT = {"Model", "SourceSettings", "Training", "Teaching", "LossSettings", "LabelLoss", "Choosing"}
ELSEWHERE = {"Generation"}  # settings of Python alone
TAGS = ("kind", "format", "backend")  # where they are required, the section's title says them


def models() -> dict[str, type[BaseModel]]:
    return {
        name: value
        for module in (layout, contract, recipe_network, recipe_training, recipe_distill, recipe_prune, recipe_lowrank)
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, Model) and name not in ABSTRACT | ELSEWHERE
    }


def default(value: object) -> str:
    if value is PydanticUndefined:
        return "required"
    if isinstance(value, BaseModel) or value in (None, (), {}, ""):
        return ""
    if isinstance(value, dict):
        return ", ".join(f"`{key}: {'null' if item is None else item}`" for key, item in value.items())
    return f"`{list(value) if isinstance(value, tuple) else str(value).lower() if isinstance(value, bool) else value}`"


def choice(annotation: object, given: object) -> str:
    others = [value for value in get_args(annotation) if value != given] if get_origin(annotation) is Literal else []
    joint = ":" if given is PydanticUndefined else " or"
    return f"{joint} {', '.join(f'`{value}`' for value in others)}" if others else ""


def rows(model: type[BaseModel]) -> list[str]:
    """The lines of a section's table."""
    found = []
    for name, field in model.model_fields.items():
        if name not in TAGS or not field.is_required():
            given = field.default_factory() if field.default_factory else field.default  # type: ignore[call-arg]
            found.append(f"| `{name}` | {default(given)}{choice(field.annotation, given)} | {field.description} |")
    return found


def test_the_page_has_a_section_for_every_model_and_no_other() -> None:
    assert set(SECTIONS) == set(models())
    assert set(SECTIONS.values()) == set(re.findall(r"^## (.*)$", PAGE, re.MULTILINE))


@pytest.mark.parametrize("name", SECTIONS)
def test_every_key_is_documented_in_the_words_of_the_model(name: str) -> None:
    section = PAGE.partition(f"\n## {SECTIONS[name]}\n")[2].partition("\n## ")[0]

    assert [line for line in section.splitlines() if line.startswith("| `")] == rows(models()[name])


@pytest.mark.parametrize("text", EXAMPLES)
def test_every_example_is_a_recipe_that_loads(text: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)

    assert load_recipe(path) == Recipe.model_validate(yaml.safe_load(text))


def test_every_key_has_a_description() -> None:
    missing = [
        f"{name}.{key}"
        for name, model in models().items()
        for key, field in model.model_fields.items()
        if not field.description and key not in TAGS
    ]
    assert missing == []
