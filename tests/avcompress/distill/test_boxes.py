"""Losses between detectors' outputs: decoded as the engines decode them, by hand, and what they are indifferent to."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Categorical, kl_divergence

from avcompress.distill.boxes import (
    Predictions,
    box_distance,
    box_overlap,
    confidence,
    distribution_divergence,
    predictions,
    response,
)
from avcompress.recipe import Detection
from engines.postprocess import decode

SIZE = (64, 96)
CELLS = 8 * 12 + 4 * 6 + 2 * 3
CLASSES = 3
DECODERS = ("yolox", "yolov5", "yolov8", "ltrb")


def task(decoder: str) -> Detection:
    return Detection.model_validate({"kind": "detection", "decode": decoder, "score_threshold": 0.0})


def output(decoder: str, seed: int = 0) -> torch.Tensor:
    """What a network with this head might return for one image."""
    random = torch.Generator().manual_seed(seed)
    width = CLASSES + (5 if decoder in {"yolox", "yolov5"} else 4)
    rows = torch.randn(1, CELLS, width, generator=random)
    if decoder != "ltrb":
        rows[..., 4:] = rows[..., 4:].sigmoid()
    if decoder in {"yolov5", "yolov8"}:
        rows[..., :4] = 20 + 2 * rows[..., :4]
    if decoder == "ltrb":
        rows[..., :4] = rows[..., :4].abs()
    return rows.transpose(1, 2) if decoder == "yolov8" else rows


def cell(box: list[float], objectness: float | None, classes: list[float]) -> Predictions:
    xyxy = torch.tensor([[box]])
    known = None if objectness is None else torch.tensor([[objectness]])
    return Predictions(xyxy, xyxy / 8, known, torch.tensor([[classes]]), logits=True)


@pytest.mark.parametrize("decoder", DECODERS)
def test_boxes_and_scores_are_those_that_the_engines_decode(decoder):
    raw = output(decoder)
    expected = decode({"output": raw.numpy()}, task(decoder), SIZE)

    found = predictions(raw, task(decoder), SIZE)

    np.testing.assert_allclose(found.xyxy[0].numpy(), expected.xyxy, rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(confidence(found)[0].numpy(), expected.scores, atol=1e-5)


def test_a_box_without_bounds_has_a_finite_loss_and_gradient():
    raw = output("yolox")
    wild = raw.clone()
    wild[..., 2:4] = 100.0
    wild.requires_grad_()

    loss = response(predictions(wild, task("yolox"), SIZE), predictions(raw, task("yolox"), SIZE), 1.0, 1.0)
    loss.backward()

    assert math.isfinite(loss.item())
    assert wild.grad is not None
    assert wild.grad.isfinite().all()


def test_response_by_hand():
    # Teacher: objectness and class 1/2 each, confidence 1/4, below 1 in total, so the sum is taken. Student: 1/4 each.
    third = -math.log(3.0)
    teacher, student = cell([0, 0, 8, 8], 0.0, [0.0]), cell([0, 0, 8, 4], third, [third])
    divergence = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    overlap = 1 - 0.5  # of the two boxes, whose hull is the teacher's

    assert confidence(teacher).item() == 0.25
    assert box_overlap(student, teacher).item() == pytest.approx(0.25 * overlap)
    assert box_distance(student, teacher).item() == pytest.approx(0.25 * 0.5 / 4)
    assert response(student, teacher, 1.0, 0.0).item() == pytest.approx(1.25 * divergence, abs=1e-6)
    assert response(student, teacher, 1.0, 2.0).item() == pytest.approx(
        1.25 * divergence + 2 * 0.25 * overlap, abs=1e-6
    )


def test_without_objectness_the_classes_of_every_cell_count():
    background, student = cell([0, 0, 8, 8], None, [-8.0]), cell([0, 0, 8, 8], None, [2.0])

    assert response(student, background, 1.0, 0.0).item() > 1


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**16), decoder=st.sampled_from(DECODERS))
def test_the_teacher_itself_has_no_loss_and_any_other_has_some(seed, decoder):
    teacher, student = (predictions(output(decoder, s), task(decoder), SIZE) for s in (seed, seed + 1))

    assert response(teacher, teacher, 2.0, 1.0).item() == pytest.approx(0, abs=1e-3)
    assert response(student, teacher, 2.0, 1.0).item() > 0.01


def test_cells_in_which_the_teacher_sees_nothing_teach_no_boxes():
    teacher, student = predictions(output("yolox"), task("yolox"), SIZE), output("yolox", 1)
    blind = replace(teacher, objectness=torch.full_like(teacher.objectness, 1e-9))

    assert box_overlap(predictions(student, task("yolox"), SIZE), blind).item() < 1e-5
    assert box_overlap(predictions(student, task("yolox"), SIZE), teacher).item() > 0.5


def test_bins_by_hand():
    # Two bins; one of the four sides differs: teacher 3/4 and 1/4, student half and half.
    teacher, student = torch.zeros(1, 8, 1, 1), torch.zeros(1, 8, 1, 1)
    teacher[0, 0] = math.log(3.0)
    expected = (0.75 * math.log(1.5) + 0.25 * math.log(0.5)) / 4

    assert distribution_divergence(student, teacher, 2, 1.0).item() == pytest.approx(expected, abs=1e-6)
    assert distribution_divergence(student, teacher, 2, 1.0, torch.zeros(1, 1, 1)).item() == 0


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**16), temperature=st.floats(1, 10))
def test_bins_agree_with_torchs_distributions_and_weights_choose_cells(seed, temperature):
    random = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(2, 4 * 16, 3, 3, generator=random) for _ in range(2))
    sides = [Categorical(logits=x.reshape(2, 4, 16, 3, 3).movedim(2, -1) / temperature) for x in (teacher, student)]
    each = temperature**2 * kl_divergence(*sides).mean(1)
    weight = torch.zeros(2, 3, 3)
    weight[0, 1, 2], weight[1, 0, 0] = 1.0, 3.0

    assert distribution_divergence(student, teacher, 16, temperature).item() == pytest.approx(
        each.mean().item(), rel=1e-4, abs=1e-6
    )
    chosen = (each[0, 1, 2] + 3 * each[1, 0, 0]).item() / 4
    found = distribution_divergence(student, teacher, 16, temperature, weight).item()
    assert found == pytest.approx(chosen, rel=1e-4, abs=1e-6)
