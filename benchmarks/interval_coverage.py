"""How often the intervals of detection figures hold the truth: docs/accuracy.md's table.

    python benchmarks/interval_coverage.py --data-root DATA --network out/yolox/model.onnx [--sets N] [--images N ...]

The 1,000 images of `coco_tune` stand for the world. From it sets of images are drawn, with replacement; each gives the
figures of YOLOX-nano, those of the quantized network, and their drops, with 95 % intervals from 400 resamples. Told is
the share of sets whose interval holds the figure of the world, by the percentile interval and by the basic one.
"""

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np

from avcompress.recipe import CocoSource, Recipe
from avcompress.recipe_load import load_recipe
from avcompress.spec import Array
from calibration.source import open_source
from engines.ort import open_ort
from validation.bootstrap import Estimate, basic, percentile, resample_weights
from validation.detection import BoxTally, tally_boxes
from validation.predict import predict
from validation.predictions import BoxPredictions, collect
from validation.truth import read_truth

RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "yolox_nano_coco.yaml"
METRICS = ("AP", "AP50", "AP_small", "precision", "recall", "ece", "AP/person", "AP/car")
RESAMPLES, CONFIDENCE = 400, 0.95
Held = dict[tuple[str, str], list[bool]]


def main() -> None:
    """Print a table in Markdown for each size of the sets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--network", type=Path, required=True)
    parser.add_argument("--sets", type=int, default=100)
    parser.add_argument("--images", type=int, nargs="+", default=[150, 500])
    arguments = parser.parse_args()
    recipe = load_recipe(RECIPE)
    networks = (arguments.data_root / "models" / "yolox_nano.onnx", arguments.network)
    tallies = [tally(recipe, arguments.data_root, network) for network in networks]
    for images in arguments.images:
        show(images, cover(tallies[0], tallies[1], images, arguments.sets))


def tally(recipe: Recipe, data_root: Path, network: Path) -> BoxTally:
    """What the figures of one network need, of the whole world."""
    settings = CocoSource(format="coco", images="coco_tune/images", labels="coco_tune/instances.json")
    source = open_source(settings, data_root, None)
    with open_ort(network, optimize=True) as session:
        found = collect(predict(session, source, recipe.preprocess, recipe.task), source.classes)
    if not isinstance(found, BoxPredictions):
        raise TypeError("a detector's recipe")
    return tally_boxes(read_truth(source), found, 0.3)


def cover(reference: BoxTally, network: BoxTally, images: int, sets: int) -> Held:
    """Whether each set's interval holds the world's figure, by what it is of and its kind."""
    world = figures(reference, network, np.ones((reference.images, 1)))
    held: Held = defaultdict(list)
    for seed in range(sets):
        drawn = np.random.default_rng(seed).integers(0, reference.images, images)
        once = np.ones((images, 1), np.uint16)
        weights = np.zeros((reference.images, RESAMPLES + 1))
        np.add.at(weights, drawn, np.hstack([once, resample_weights(images, RESAMPLES, seed)]))
        for name, values in figures(reference, network, weights).items():
            if not np.isnan(values[0]):
                for kind in (percentile, basic):
                    found: Estimate = kind(float(values[0]), values[1:], CONFIDENCE)
                    held[name, kind.__name__].append(found.low <= world[name][0] <= found.high)
    return held


def figures(reference: BoxTally, network: BoxTally, weights: Array) -> dict[str, Array]:
    """The network's figures and its drops under weights (I, R)."""
    before, after = reference.figures(weights), network.figures(weights)
    return {name: after[name] for name in METRICS} | {f"{name} drop": before[name] - after[name] for name in METRICS}


def show(images: int, held: Held) -> None:
    """Print one table."""
    print(f"\n{images} images\n\n| figure | percentile | basic |\n|---|---|---|")
    for name in dict.fromkeys(name for name, _ in held):
        shares = (100 * np.mean(held[name, kind]) for kind in ("percentile", "basic"))
        print(f"| {name} | " + " | ".join(f"{share:.0f} %" for share in shares) + " |")


if __name__ == "__main__":
    main()
