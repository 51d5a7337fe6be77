import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from avcompress.spec import DataError, EngineError
from calibration.sample import VOID
from validation.mask_png import encode_mask
from validation.predictions import MaskPredictions
from validation.segmentation import (
    BANDS,
    mask_metric_names,
    tally_bands,
    tally_masks,
)
from validation.segmentation.boundary import boundary_map, near, tolerance_px
from validation.truth import Truth

CLASSES = ("road", "car", "sky")


def labelled(*masks, classes=CLASSES):
    masks = [np.array(mask, np.uint8) for mask in masks]
    names = tuple(f"{index}.png" for index in range(len(masks)))
    sizes = np.array([mask.shape for mask in masks], np.int32)
    dark = np.zeros(len(masks), np.float32)
    return Truth(names, classes, "0" * 64, sizes, dark, {}, masks=tuple(encode_mask(mask) for mask in masks))


def predicted(*masks):
    masks = [np.array(mask, np.uint8) for mask in masks]
    return MaskPredictions(tuple(f"{i}.png" for i in range(len(masks))), tuple(encode_mask(m) for m in masks))


def figures(truth, found):
    return {name: float(values[0]) for name, values in tally_masks(truth, found).figures(np.ones((2, 1))).items()}


def test_the_figures_of_two_images_by_hand():
    # road: 2 hits of 3 labelled and 3 predicted; car: 1 of 2 and 1; one road pixel is taken for a class outside.
    found = figures(labelled([[0, 0, 0, VOID]], [[1, 1]]), predicted([[0, 0, 3, 1]], [[1, 0]]))
    assert found["IoU/road"] == 2 / 4
    assert found["IoU/car"] == 1 / 2
    assert np.isnan(found["IoU/sky"])
    assert found["mIoU"] == 0.5
    assert found["pixel_accuracy"] == 3 / 5
    assert found["F1/road"] == 4 / 6
    assert found["F1/car"] == 2 / 3
    assert found["F1"] == 2 / 3
    assert tuple(found) == mask_metric_names(CLASSES)


def test_the_boundary_of_a_shifted_edge_by_hand():
    # 40 x 30: tolerance max(1, 0.0075 * 50) = 1. The edge road|car moves by 1 column (near), then by 2 (not near).
    label = np.zeros((30, 40), np.uint8)
    label[:, 20:] = 1
    one, two = np.zeros_like(label), np.zeros_like(label)
    one[:, 21:] = 1
    two[:, 22:] = 1
    assert tolerance_px(label.shape) == 1.0
    near_by = figures(labelled(label, label), predicted(one, one))
    assert near_by["boundary_f/road"] == near_by["boundary_f"] == 1.0
    assert near_by["mIoU"] < 1
    half = figures(labelled(label, label), predicted(one, two))
    assert half["boundary_f/road"] == half["boundary_f/car"] == 0.5
    assert np.isnan(half["boundary_f/sky"])


def test_a_boundary_that_only_one_side_has_scores_zero():
    label = [[0, 0, 0, 0]]
    assert figures(labelled(label, label), predicted([[0, 0, 2, 2]], label))["boundary_f/sky"] == 0.0
    assert figures(labelled([[0, 2]], label), predicted([[0, 0]], label))["boundary_f/sky"] == 0.0


def test_borders_with_unlabelled_pixels_and_the_image_edge_are_no_boundary():
    assert (boundary_map(np.array([[0, 0, VOID, 1, 1]], np.uint8)) == VOID).all()
    assert boundary_map(np.array([[0, 0, 1, 1]], np.uint8)).tolist() == [[VOID, 0, 1, VOID]]


some_masks = st.tuples(
    arrays(np.uint8, (9, 7), elements=st.sampled_from([0, 1, 2, VOID])),
    arrays(np.uint8, (9, 7), elements=st.sampled_from([0, 1, 2, 3, 11, VOID])),
)


@given(some_masks, some_masks, st.integers(0, 3), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_mean_iou_is_that_of_plain_numpy_to_the_last_bit(first, second, a, b):
    truth, found = labelled(first[0], second[0]), predicted(first[1], second[1])
    mine = tally_masks(truth, found).figures(np.array([[a], [b]]))
    label = np.concatenate([first[0].ravel()] * a + [second[0].ravel()] * b + [np.zeros(0, np.uint8)])
    claim = np.concatenate([first[1].ravel()] * a + [second[1].ravel()] * b + [np.zeros(0, np.uint8)])
    label, claim = label[label != VOID], claim[label != VOID]
    iou = np.full(3, np.nan)
    for index in range(3):
        union = np.sum((label == index) | (claim == index))
        if union:
            iou[index] = np.sum((label == index) & (claim == index)) / union
    expected = np.nanmean(iou) if not np.isnan(iou).all() else np.nan
    np.testing.assert_array_equal(mine["mIoU"][0], expected)
    np.testing.assert_array_equal([mine[f"IoU/{name}"][0] for name in CLASSES], iou)


def test_mean_iou_of_many_classes_is_that_of_plain_numpy_to_the_last_bit():
    rng = np.random.default_rng(0)
    classes = tuple(f"c{index}" for index in range(33))
    label = rng.integers(0, 33, (64, 48)).astype(np.uint8)
    label[label == 5] = 6
    claim = np.where(rng.random(label.shape) < 0.7, label, rng.integers(6, 33, label.shape)).astype(np.uint8)
    iou = np.array(
        [
            np.nan if i == 5 else np.sum((label == i) & (claim == i)) / np.sum((label == i) | (claim == i))
            for i in range(33)
        ]
    )
    values = tally_masks(labelled(label, classes=classes), predicted(claim)).figures(np.ones((1, 3)))["mIoU"]
    assert values.tolist() == [np.nanmean(iou)] * 3


def brute_force(boundary, other, tolerance):
    """Every distance between two boundary pixels of one class."""
    found = np.zeros(boundary.shape, bool)
    for place in np.argwhere(boundary != VOID):
        same = np.argwhere(other == boundary[tuple(place)])
        found[tuple(place)] = bool(same.size) and np.hypot(*(same - place).T).min() <= tolerance
    return found


@given(
    arrays(np.uint8, (9, 13), elements=st.sampled_from([0, 1, 2, VOID])),
    arrays(np.uint8, (9, 13), elements=st.sampled_from([0, 1, 2, 3, VOID])),
    st.sampled_from([1.0, 1.5, 2.3, 5.0, 20.0]),
)
@settings(max_examples=60, deadline=None)
def test_near_is_what_all_distances_say(label, claim, tolerance):
    truth, found = boundary_map(label), boundary_map(claim)
    assert (near(found, truth, tolerance) == brute_force(found, truth, tolerance)).all()


def test_boundary_f_is_what_all_distances_say_pooled_over_images():
    rng = np.random.default_rng(3)
    label = [np.repeat(np.repeat(rng.integers(0, 3, (5, 6)), 12, 0), 12, 1).astype(np.uint8) for _ in range(2)]
    claim = [np.roll(mask, (2, 1), (0, 1)) for mask in label]
    claim[0][10:20] = 2
    values = figures(labelled(*label), predicted(*claim))
    for index, name in enumerate(CLASSES):
        hit = np.zeros(4)
        for mask, other in zip(label, claim, strict=True):
            truth, found = boundary_map(mask), boundary_map(other)
            limit = tolerance_px(mask.shape)
            ours, theirs = found == index, truth == index
            hit += [(brute_force(found, truth, limit) & ours).sum(), ours.sum(), 0, 0]
            hit += [0, 0, (brute_force(truth, found, limit) & theirs).sum(), theirs.sum()]
        precision, recall = hit[0] / hit[1], hit[2] / hit[3]
        assert 0 < values[f"boundary_f/{name}"] < 1
        assert values[f"boundary_f/{name}"] == pytest.approx(2 * precision * recall / (precision + recall), abs=1e-12)


def test_bands_share_out_every_pixel():
    rng = np.random.default_rng(1)
    label, claim = rng.integers(0, 3, (2, 32, 47)).astype(np.uint8)
    truth, found = labelled(label), predicted(claim)
    whole = tally_masks(truth, found)
    left, center, right = tally_bands(truth, found, [BANDS[name] for name in ("left", "center", "right")])
    top, middle, bottom = tally_bands(truth, found, [BANDS[name] for name in ("top", "middle", "bottom")])
    for parts in ((left, center, right), (top, middle, bottom)):
        assert (sum(part.pixels for part in parts) == whole.pixels).all()
        assert (sum(part.boundary for part in parts) == whole.boundary).all()
    assert left.objects == 32 * 16
    assert [BANDS[name].window((7, 9))[0] for name in ("top", "middle", "bottom")] == [
        slice(0, 3),
        slice(3, 5),
        slice(5, 7),
    ]


def test_masks_that_cannot_be_judged_are_refused():
    with pytest.raises(EngineError, match=r"0.png: expected a mask of \(1, 2\), got \(1, 1\)"):
        tally_masks(labelled([[0, 1]]), predicted([[0]]))
    with pytest.raises(DataError, match="below 3 or 255, got 7"):
        tally_masks(labelled([[7]]), predicted([[0]]))
    with pytest.raises(ValueError, match="expected labels of 1 images, got 2"):
        tally_masks(labelled([[0]], [[0]]), predicted([[0]]))
