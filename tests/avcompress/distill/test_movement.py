"""What a small movement counts is what the distances that train make of it."""

import math

import pytest
import torch

from avcompress.distill.boxes import confidence, predictions, response
from avcompress.distill.movement import movement, moves_of, moves_of_detector, moves_of_segmenter, moves_of_values
from avcompress.distill.soft import softmax_divergence
from avcompress.recipe import Detection, Segmentation

TASK, SIZE = Detection(kind="detection", decode="yolox", strides=(8,)), (32, 32)


def squared_step(moves, outputs: torch.Tensor, step: torch.Tensor) -> float:
    """The sum of the squares of what moves along a small step, in the units of where it begins."""
    total = 0.0
    for index in range(len(moves(outputs))):
        moved = torch.autograd.functional.jvp(lambda x, index=index: moves(x)[index], outputs, step)[1]
        total += float(moved.square().sum())
    return total


def test_a_segmenter_s_movements_are_twice_the_divergence():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 5, 4, 6, generator=generator, dtype=torch.float64)
    step = torch.randn(logits.shape, generator=generator, dtype=torch.float64) * 1e-2

    distance = float(softmax_divergence(logits + step, logits, 1.0, 1))

    assert squared_step(moves_of_segmenter, logits, step) == pytest.approx(2 * distance, rel=0.02)


def test_a_detector_s_scores_move_as_its_response_says():
    generator = torch.Generator().manual_seed(0)
    output = torch.rand(1, 16, 5 + 3, generator=generator) * 0.8 + 0.1
    step = torch.zeros_like(output)
    step[..., 4:] = (torch.rand(step[..., 4:].shape, generator=generator) - 0.5) * 2e-3  # boxes stay

    before, after = (predictions(each, TASK, SIZE) for each in (output, output + step))
    distance = float(response(after, before, temperature=1.0, boxes=1.0)) * float(confidence(before).sum())

    assert squared_step(moves_of_detector(TASK, SIZE), output, step) == pytest.approx(2 * distance, rel=0.05)


def test_cells_that_see_nothing_say_nothing_of_boxes():
    output = torch.full((1, 16, 8), 1e-3)
    output[0, 3, 4:] = 0.9

    parts = moves_of_detector(TASK, SIZE)(output)

    assert [tuple(part.shape) for part in parts] == [(1, 16), (1, 3), (1, 4)]


def test_of_other_networks_every_number_counts_alike():
    outputs = torch.tensor([[1.0, -1.0, 3.0, -3.0]])

    (moved,) = moves_of_values(outputs)

    assert moved == pytest.approx(outputs / math.sqrt(5) / 2, rel=1e-5)


@pytest.mark.parametrize("task", [TASK, Segmentation(kind="segmentation"), None])
def test_a_movement_is_the_squared_step_in_the_units_of_where_it_begins(task):
    generator = torch.Generator().manual_seed(0)
    output = torch.rand((1, 16, 5 + 3) if task is TASK else (1, 3, 4, 4), generator=generator) * 0.8 + 0.1
    step = torch.randn(output.shape, generator=generator) * 1e-2
    moves = moves_of(task, SIZE)

    assert movement(moves, [output], [output + step]) == pytest.approx(squared_step(moves, output, step), rel=1e-4)
    assert movement(moves, [output], [output]) == 0


def test_scores_of_exactly_zero_and_one_move_as_far_as_can_be_told():
    output = torch.zeros(1, 16, 5 + 3)
    output[..., 4] = 1.0

    moved = movement(moves_of_detector(TASK, SIZE), [output], [output + 1e-3])

    assert math.isfinite(moved)


def test_an_output_of_another_size_or_of_whole_numbers_does_not_count():
    values, counts = torch.rand(1, 4), torch.tensor([3])

    before, after = [values, torch.rand(1, 6), counts], [values + 0.1, torch.rand(1, 5), counts + 1]

    alone = movement(moves_of_values, [values], [values + 0.1])
    assert movement(moves_of_values, before, after) == pytest.approx(alone / 2)
