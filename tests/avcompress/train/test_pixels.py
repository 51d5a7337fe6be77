"""Cross entropy by pixel: void, weights, sizes."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from avcompress.models.segmentation import class_weights
from avcompress.spec import DataError, ModelError
from avcompress.train.pixels import cross_entropy
from calibration.sample import VOID, Sample


def sample(mask) -> Sample:
    mask = np.array(mask, np.uint8)
    return Sample("m.png", np.zeros((*mask.shape, 3), np.uint8), mask=mask)


def logits(*scores) -> torch.Tensor:
    """(1, 2, 1, N) from N pairs."""
    return torch.tensor(scores, dtype=torch.float32).T.reshape(1, 2, 1, -1)


def test_void_pixels_count_nothing_by_hand():
    loss = cross_entropy(logits((0, 0), (5, 5), (0, math.log(3))), [sample([[0, VOID, 1]])])

    assert loss.item() == pytest.approx((math.log(2) + math.log(4 / 3)) / 2)


def test_weights_by_hand():
    loss = cross_entropy(logits((0, 0), (0, math.log(3))), [sample([[0, 1]])], [1, 3])

    assert loss.item() == pytest.approx((math.log(2) + 3 * math.log(4 / 3)) / 4)


def test_weighted_and_balanced_losses_are_those_of_torch():
    rng = np.random.default_rng(0)
    masks = rng.integers(0, 4, (2, 6, 8)).astype(np.uint8)
    masks[0, :2] = VOID
    outputs = torch.tensor(rng.normal(0, 1, (2, 4, 6, 8)), dtype=torch.float32)
    wanted = torch.from_numpy(masks).long()

    weights = torch.tensor([1.0, 2.0, 0.5, 3.0])
    found = cross_entropy(outputs, [sample(m) for m in masks], weights.tolist())
    torch.testing.assert_close(found, F.cross_entropy(outputs, wanted, weights, ignore_index=VOID))
    balanced = cross_entropy(outputs, [sample(m) for m in masks], "balanced")
    torch.testing.assert_close(balanced, F.cross_entropy(outputs, wanted, class_weights(wanted, 4), ignore_index=VOID))


def test_smaller_outputs_are_enlarged():
    assert cross_entropy(torch.zeros(1, 3, 2, 2), [sample(np.zeros((8, 8)))]).item() == pytest.approx(math.log(3))


def test_a_batch_without_a_labelled_pixel_is_no_loss():
    assert cross_entropy(logits((1, 2)), [sample([[VOID]])]).item() == 0


def test_what_does_not_fit_is_one_line():
    with pytest.raises(DataError, match=r"bare\.png: expected a mask for loss cross_entropy, got none"):
        cross_entropy(logits((0, 0)), [Sample("bare.png", np.zeros((1, 1, 3), np.uint8))])
    with pytest.raises(ModelError, match="expected an output of at least 8 classes, got 2"):
        cross_entropy(logits((0, 0)), [sample([[7]])])
    with pytest.raises(ModelError, match="expected 2 class_weights, one for each channel of the output, got 3"):
        cross_entropy(logits((0, 0)), [sample([[0]])], [1, 2, 3])
    with pytest.raises(ModelError, match=r"expected logits \(B, C, H, W\), got \(1, 2\)"):
        cross_entropy(torch.zeros(1, 2), [sample([[0]])])
