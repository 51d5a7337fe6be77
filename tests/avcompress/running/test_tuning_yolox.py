"""Quantization-aware training of a real network by its recipe, judged on images that it has not learned from."""

from pathlib import Path

import numpy as np
import pytest
import torch

from avcompress.checkpoint import load_artifact
from avcompress.distill.boxes import predictions, response
from avcompress.onnx_import import import_onnx
from avcompress.recipe import Recipe
from avcompress.recipe_load import load_recipe
from avcompress.recipe_training import Augment
from avcompress.running.bench import Job, prepare
from avcompress.running.compress import compress
from avcompress.train import Dataset, load
from avcompress.watch import SilentWatch

PATH = Path(__file__).resolve().parents[3] / "recipes" / "yolox_nano_all_int8_qat.yaml"
FEW = {"train": 60, "calibration": 32, "validation": 24}


def shortened(recipe: Recipe, repaired: bool) -> Recipe:
    """The recipe with less of everything, and a rate to fit: 30 steps of 4 images."""
    facts = recipe.model_dump(mode="json")
    for part, limit in FEW.items():
        sources = facts["data"][part]
        for source in sources if isinstance(sources, list) else [sources]:
            source.update(limit=limit)
    if not repaired:
        facts["stages"] = [stage for stage in facts["stages"] if stage["kind"] not in ("equalize", "smooth")]
    facts["stages"][-1] |= {"steps": 30, "batch_size": 4, "learning_rate": 0.003 if repaired else 0.04}
    facts["target"] = {"engines": [{"backend": "ort"}]}
    facts["contract"] = {"accuracy": [{"metric": "AP", "min": 0.0}]}
    return Recipe.model_validate(facts)


@torch.no_grad()
def distance(folder: Path, recipe: Recipe, images: Dataset) -> float:
    """How far the network's answers are from its float self's, as `response` counts it."""
    artifact = load_artifact(folder)
    ours, theirs = import_onnx(artifact.model), import_onnx(artifact.reference)
    inputs, _ = images.batch(range(len(images.pictures)), np.random.default_rng(0), Augment(mirror=0, brightness=0))
    pairs = [[predictions(net(part), recipe.task, (416, 416)) for net in (ours, theirs)] for part in inputs.split(4)]
    return float(np.mean([float(response(*pair, temperature=1.0, boxes=1.0)) for pair in pairs]))


@pytest.mark.slow
@pytest.mark.parametrize(("repaired", "left"), [(True, 1.05), (False, 0.85)])
def test_a_short_training_mends_what_is_broken_and_breaks_nothing(data_root, tmp_path, repaired, left):
    recipe = shortened(load_recipe(PATH), repaired)
    bench = prepare(Job(recipe, PATH, data_root, tmp_path), SilentWatch())
    steps = [f"{index}-{stage.kind}" for index, stage in enumerate(recipe.stages)]

    compress(bench)

    images = load(bench.validation, recipe.preprocess)
    before, after = (distance(tmp_path / "state" / step, recipe, images) for step in steps[-2:])
    assert after < left * before
