"""Three small trainings, alone or under torchrun; then one of the processes ends in the middle of a fourth."""

import json
import sys

import torch

from avcompress import ranks
from avcompress.models import detector, segmenter
from avcompress.recipe import Preprocess, SceneSource
from avcompress.recipe_training import Train
from avcompress.spec import PeerError
from avcompress.train import Around, feed, load, run_steps
from avcompress.train.pixels import cross_entropy
from calibration.scenes import open_scenes


def curve(what: str, fault: bool = False) -> list[float]:
    """The losses of six steps, and the sum of the weights after them."""
    settings = Train.model_validate(
        {"kind": "train", "steps": 6, "batch_size": 4, "learning_rate": 1e-2, "batch_norm": "frozen"}
    )
    labels = "boxes" if what == "detector" else "masks"
    source = open_scenes(SceneSource(format="scenes", count=6, size=(64, 96), labels=labels))
    dataset = load(source, Preprocess(size=(64, 96), mean=(114.0,) * 3, std=(58.0,) * 3))
    module = detector(6, 8) if what == "detector" else segmenter(10, 8)
    batches, losses = feed(dataset, settings), []

    def loss_of(turn):
        if fault and (turn.step, ranks.rank()) == (2, 1):
            raise SystemExit(7)
        inputs, samples = batches(turn)
        if what == "pixels":
            return cross_entropy(module(inputs), samples, "balanced")
        return module.loss(module(inputs), module.targets(samples))

    trained = run_steps(module, settings, loss_of, Around(log=lambda _, values: losses.append(values["loss"])))
    return [*losses, sum(float(p.sum()) for p in trained.module.parameters())]


NETWORKS = ("detector", "segmenter", "pixels")

if __name__ == "__main__":
    torch.set_num_threads(1)
    with ranks.joined():
        found = {what: curve(what) for what in NETWORKS}
        if ranks.leads():
            sys.stdout.write(f"{json.dumps(found)}\n")
            sys.stdout.flush()
        try:
            curve("segmenter", fault=True)
        except PeerError as error:
            sys.stdout.write(f"peer: {error}\n")
            sys.stdout.flush()
            raise SystemExit(2) from error
