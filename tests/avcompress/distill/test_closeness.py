"""The two views of how near answers are: a distance, and the outputs in units of it."""

import math

import pytest
import torch

from avcompress.distill.boxes import confidence, predictions
from avcompress.distill.closeness import of_detector, of_segmenter, of_values
from avcompress.recipe import Detection


def squared_step(closeness, outputs: torch.Tensor, step: torch.Tensor) -> float:
    """The sum of the squares of what `moves` moves by along a small step, its weights those of where it begins."""
    base = outputs.clone().requires_grad_()
    total = 0.0
    for part in closeness.moves(base):
        # Weights are detached: the derivative along the step is the movement in them.
        moved = torch.autograd.functional.jvp(lambda x, part=part: _same(closeness, x, part), outputs, step)[1]
        total += float(moved.square().sum())
    return total


def _same(closeness, outputs, part):
    return next(found for found in closeness.moves(outputs) if found.shape == part.shape)


def test_a_segmenter_s_movements_are_twice_the_divergence():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 5, 4, 6, generator=generator, dtype=torch.float64)
    step = torch.randn(logits.shape, generator=generator, dtype=torch.float64) * 1e-2
    closeness = of_segmenter()

    distance = closeness.distance(logits + step, logits)

    assert squared_step(closeness, logits, step) == pytest.approx(2 * distance, rel=0.02)


def test_a_detector_s_scores_move_as_its_response_says():
    task = Detection(kind="detection", decode="yolox", strides=(8,))
    generator = torch.Generator().manual_seed(0)
    output = torch.rand(1, 16, 5 + 3, generator=generator) * 0.8 + 0.1
    step = torch.zeros_like(output)
    step[..., 4:] = (torch.rand(step[..., 4:].shape, generator=generator) - 0.5) * 2e-3  # boxes stay
    closeness = of_detector(task, (32, 32))

    distance = closeness.distance(output + step, output)

    total = float(confidence(predictions(output, task, (32, 32))).sum())
    assert squared_step(closeness, output, step) == pytest.approx(2 * distance * total, rel=0.05)


def test_cells_that_see_nothing_say_nothing_of_boxes():
    task = Detection(kind="detection", decode="yolox", strides=(8,))
    output = torch.full((1, 16, 8), 1e-3)
    output[0, 3, 4:] = 0.9

    parts = of_detector(task, (32, 32)).moves(output)

    assert [tuple(part.shape) for part in parts] == [(1, 16), (1, 3), (1, 4)]


def test_of_other_networks_every_number_counts_alike():
    outputs = torch.tensor([[1.0, -1.0, 3.0, -3.0]])
    spread = math.sqrt(5)

    closeness = of_values()

    (moved,) = closeness.moves(outputs)
    assert moved == pytest.approx(outputs / spread / 2, rel=1e-5)
    assert closeness.distance(outputs + spread, outputs) == pytest.approx(1, rel=1e-5)
