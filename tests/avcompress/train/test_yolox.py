"""The loss of YOLOX heads: by hand, against the assignment written out in loops, and on the real network."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from avcompress.recipe import Detection
from avcompress.spec import DataError, ModelError
from avcompress.train.yolox import Cells, Predicted, assign, paired_iou, yolox_loss
from calibration.sample import Boxes, Sample

TASK = Detection(kind="detection", decode="yolox", strides=(8,))


def sample(boxes=(), labels=(), ignore=None, size=(16, 16)) -> Sample:
    count = len(labels)
    return Sample(
        "s.jpg",
        np.zeros((*size, 3), np.uint8),
        Boxes(
            np.array(boxes, np.float32).reshape(-1, 4),
            np.array(labels, np.int64),
            np.zeros(count, np.bool_) if ignore is None else np.array(ignore),
            np.ones(count),
        ),
    )


def rows(*values) -> torch.Tensor:
    """Four cells of stride 8 at (4, 4), (12, 4), (4, 12), (12, 12): 5 + 2 values each."""
    return torch.tensor([values], dtype=torch.float32)


QUIET = (0.5, 0.5, 0.0, 0.0, 0.1, 0.2, 0.2)
"""A box of 8 x 8 about the cell's centre, objectness 0.1."""


def test_a_picture_without_objects_only_lowers_objectness():
    loss = yolox_loss(rows(QUIET, QUIET, QUIET, QUIET), [sample()], TASK)

    assert loss.item() == pytest.approx(-4 * math.log(0.9), rel=1e-5)


def test_one_object_by_hand():
    """The box 0 0 8 8 of class 1: the first cell fits it wholly; its best overlaps add up to 1: one cell answers."""
    loss = yolox_loss(rows(QUIET, QUIET, QUIET, QUIET), [sample([[0, 0, 8, 8]], [1])], TASK)

    objectness = -math.log(0.1) - 3 * math.log(0.9)
    classes = -math.log(0.8) - math.log(0.2)  # class 0 is wanted 0, class 1 is wanted 1, the overlap
    assert loss.item() == pytest.approx(5 * 0 + objectness + classes, rel=1e-5)


def test_the_overlap_s_loss_by_hand():
    """The first cell predicts 8 x 4 about its centre, half of the object: IoU 0.5."""
    half = (0.5, 0.5, 0.0, math.log(0.5), 0.1, 0.2, 0.2)

    loss = yolox_loss(rows(half, QUIET, QUIET, QUIET), [sample([[0, 0, 8, 8]], [0])], TASK)

    classes = -(0.5 * math.log(0.2) + 0.5 * math.log(0.8)) - math.log(0.8)
    objectness = -math.log(0.1) - 3 * math.log(0.9)
    assert loss.item() == pytest.approx(5 * (1 - 0.25) + objectness + classes, rel=1e-5)


def test_rows_inside_an_ignored_object_count_neither_way():
    loss = yolox_loss(rows(QUIET, QUIET, QUIET, QUIET), [sample([[0, 0, 16, 8]], [-1], [True])], TASK)

    assert loss.item() == pytest.approx(-2 * math.log(0.9), rel=1e-5)


def in_loops(predicted: Predicted, xyxy, labels, grid: Cells) -> dict[int, int]:
    """SimOTA as one says it: the object of every row that answers."""
    wanted: dict[int, dict[int, float]] = {}
    costs = np.full((len(xyxy), len(grid.strides)), np.inf)
    ious = np.zeros_like(costs)
    near = np.zeros(costs.shape, bool)
    for m, box in enumerate(xyxy.numpy()):
        middle = (box[:2] + box[2:]) / 2
        for n, (centre, stride) in enumerate(zip(grid.centres.numpy(), grid.strides.numpy(), strict=True)):
            near[m, n] = np.abs(centre - middle).max() < 1.5 * stride
    for m in range(len(xyxy)):
        for n in np.flatnonzero(near.any(axis=0)):
            ious[m, n] = float(paired_iou(xyxy[m], predicted.xyxy[n]))
            score = np.sqrt(predicted.scores[n].numpy().astype(float) * float(predicted.objectness[n]))
            entropy = sum(-math.log(s if c == int(labels[m]) else 1 - s) for c, s in enumerate(score))
            costs[m, n] = entropy - 3 * math.log(ious[m, n] + 1e-8) + (0 if near[m, n] else 1e6)
    for m in range(len(xyxy)):
        candidates = np.flatnonzero(near.any(axis=0))
        k = max(1, int(sum(sorted(ious[m, candidates])[::-1][:10])))
        for n in sorted(candidates, key=lambda n: costs[m, n])[:k]:
            wanted.setdefault(int(n), {})[m] = costs[m, n]
    return {
        n: (min(range(len(xyxy)), key=lambda m: costs[m, n]) if len(by) > 1 else next(iter(by)))
        for n, by in wanted.items()
    }


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.integers(1, 6))
def test_the_assignment_is_that_of_the_loops(seed, count):
    rng = np.random.default_rng(seed)
    side, stride = 6, 8.0
    y, x = np.divmod(np.arange(side * side), side)
    grid = Cells(
        torch.tensor(np.stack([x, y], 1) * stride + stride / 2, dtype=torch.float32), torch.full((side * side,), stride)
    )
    low = rng.uniform(0, 36, (count, 2))
    xyxy = torch.tensor(np.concatenate([low, low + rng.uniform(3, 24, (count, 2))], 1), dtype=torch.float32)
    half = rng.uniform(2, 12, (side * side, 2))
    centre = grid.centres.numpy() + rng.normal(0, 3, (side * side, 2))
    predicted = Predicted(
        torch.tensor(np.concatenate([centre - half, centre + half], 1), dtype=torch.float32),
        torch.tensor(rng.uniform(0.05, 0.95, side * side), dtype=torch.float32),
        torch.tensor(rng.uniform(0.05, 0.95, (side * side, 3)), dtype=torch.float32),
    )
    labels = torch.tensor(rng.integers(0, 3, count))

    found = assign(predicted, xyxy, labels, grid)

    assert dict(zip(found.rows.tolist(), found.objects.tolist(), strict=True)) == in_loops(
        predicted, xyxy, labels, grid
    )


def test_the_loss_has_a_finite_gradient_where_scores_are_0_or_1():
    outputs = rows((0.5, 0.5, 0, 0, 0, 1, 0), (0.5, 0.5, 0, 0, 1, 0, 1), QUIET, QUIET).requires_grad_()

    yolox_loss(outputs, [sample([[0, 0, 8, 8]], [1])], TASK).backward()

    assert torch.isfinite(outputs.grad).all()


def test_what_does_not_fit_is_one_line():
    good = rows(QUIET, QUIET, QUIET, QUIET)

    with pytest.raises(ModelError, match=r"expected an output \(B, 4, 5 \+ classes\) .* got \(1, 3, 7\)"):
        yolox_loss(good[:, :3], [sample()], TASK)
    with pytest.raises(ModelError, match="expected an output of at least 3 classes, got 2"):
        yolox_loss(good, [sample([[0, 0, 8, 8]], [2])], TASK)
    with pytest.raises(DataError, match=r"s\.jpg: expected boxes for loss yolox, got none"):
        yolox_loss(good, [Sample("s.jpg", np.zeros((16, 16, 3), np.uint8))], TASK)


@pytest.mark.slow
def test_yolox_nano_from_its_onnx_file_learns_from_coco_labels(data_root):
    from pathlib import Path

    from avcompress.onnx_import import import_onnx
    from avcompress.recipe_load import load_recipe
    from avcompress.recipe_training import Train
    from avcompress.spec import Artifact
    from avcompress.train import Around, TaskLoss, train
    from calibration.source import open_source
    from engines.onnx_load import load_onnx

    recipe = load_recipe(Path(__file__).parents[3] / "recipes" / "yolox_nano_coco.yaml")
    source = recipe.data.calibration.model_copy(update={"limit": 4})
    samples = open_source(source, data_root, recipe.classes)
    plan = Train.model_validate(
        {"kind": "train", "steps": 6, "batch_size": 4, "learning_rate": 2e-5, "augment": {"mirror": 0, "brightness": 0}}
    )
    losses: list[float] = []
    loss = TaskLoss(lambda outputs, batch: yolox_loss(outputs, batch, recipe.task))
    around = Around(log=lambda _, values: losses.append(values["loss"]))

    module = import_onnx(load_onnx(data_root / "models" / "yolox_nano.onnx"))
    train(Artifact(module), plan, samples, recipe.preprocess, around, loss)

    assert losses[0] < 10  # a network that is trained already starts well
    assert losses[-1] < 0.95 * losses[0]
