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
FEW = {"train": 80, "calibration": 32, "validation": 24}


def shortened(recipe: Recipe) -> Recipe:
    """The recipe with less of everything: 40 steps of 4 images."""
    facts = recipe.model_dump(mode="json")
    for part, limit in FEW.items():
        sources = facts["data"][part]
        for source in sources if isinstance(sources, list) else [sources]:
            source.update(limit=limit)
    facts["stages"][-1] |= {"steps": 40, "batch_size": 4}
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
def test_a_short_training_brings_all_int8_nearer_to_its_float_self(data_root, tmp_path):
    recipe = shortened(load_recipe(PATH))
    bench = prepare(Job(recipe, PATH, data_root, tmp_path), SilentWatch())

    compress(bench)

    images = load(bench.validation, recipe.preprocess)
    before, after = (distance(tmp_path / "state" / step, recipe, images) for step in ("3-correct_bias", "4-qat"))
    assert after < 0.97 * before
