"""Regressions planted in synthetic sets, and the numbers of comparisons by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest

from avcompress.contract import Validation
from validation.changes import find_changes
from validation.comparison import FEWEST_IMAGES, compare_each, compare_networks
from validation.detection import box_metric_names, tally_boxes
from validation.mask_png import encode_mask
from validation.predictions import BoxPredictions, MaskPredictions
from validation.truth import Objects, Truth

CLASSES = ("car", "person", "cyclist")
PERSON = 1
IMAGES = 150
THRESHOLD = 0.5
SETTINGS = Validation(resamples=200)
BY_CLASS = tuple(f"{metric}/{name}" for metric in ("AP", "recall") for name in CLASSES)


@pytest.fixture(scope="module")
def labels():
    """Six objects in each of 150 images of 600 x 600, each in a cell of its own; a fifth of the images in rain."""
    rng = np.random.default_rng(0)
    count = 6 * IMAGES
    corners = np.tile([(x, y) for y in (10, 310) for x in (10, 210, 410)], (IMAGES, 1)).astype(np.float32)
    sides = rng.choice([20, 60, 150], count).astype(np.float32)[:, None]
    rain = np.where(np.arange(IMAGES) % 5 == 0, "rain", "dry")
    objects = Objects(
        np.repeat(np.arange(IMAGES), 6),
        np.hstack([corners, corners + sides]),
        rng.integers(0, 3, count),
        np.zeros(count, bool),
        (sides[:, 0] ** 2).astype(np.float64),
        {"distance_m": (2000 / sides[:, 0]).astype(np.float64)},
    )
    names = tuple(f"{i}.png" for i in range(IMAGES))
    sizes = np.full((IMAGES, 2), 600, np.int32)
    return Truth(names, CLASSES, "0" * 64, sizes, np.full(IMAGES, 90, np.float32), {"weather": rain}, objects)


def detect(labels, seed, seen=None):
    """What a network of middling quality detects: nine of ten objects, with noise in every score, and false alarms.

    `seen` (N,) is how likely each object is to be found.
    """
    rng = np.random.default_rng(seed)
    objects = labels.objects
    found = rng.random(len(objects.labels)) < (0.9 if seen is None else seen)
    shaky = objects.xyxy + rng.uniform(-1, 1, objects.xyxy.shape)
    places = rng.uniform(100, 400, (IMAGES, 2))
    return BoxPredictions(
        labels.names,
        np.concatenate([objects.image[found], np.arange(IMAGES)]),
        np.concatenate([shaky[found], np.hstack([places, places + 70])]).astype(np.float32),
        np.concatenate([rng.uniform(0.4, 1, found.sum()), rng.uniform(0.2, 0.8, IMAGES)]).astype(np.float32),
        np.concatenate([objects.labels[found], rng.integers(0, 3, IMAGES)]),
    )


def only(*slices):
    return SETTINGS.model_copy(update={"slices": slices})


def proven_drops(result, metrics):
    """Those whose interval lies above 0."""
    return {metric for metric in metrics if result.drop[metric].low > 0}


def proven_slices(comparison, metric):
    return {name for name, result in comparison.slices.items() if result.drop[metric].low > 0}


def test_two_networks_of_equal_worth_show_no_drop(labels):
    comparison = compare_networks(labels, detect(labels, 1), detect(labels, 2), SETTINGS, THRESHOLD)
    assert proven_drops(comparison.slices["all"], (*BY_CLASS, "AP", "recall", "precision", "false_alarms")) == set()
    everywhere = comparison.slices["all"]
    assert (everywhere.images, everywhere.objects) == (IMAGES, 6 * IMAGES)
    assert tuple(everywhere.drop) == tuple(everywhere.reference) == box_metric_names(CLASSES, kitti=False)
    assert list(comparison.slices)[:4] == ["all", "size:small", "size:medium", "size:large"]
    assert comparison.slices["brightness:medium"] is everywhere, "every image is as bright"
    assert comparison.slices["weather:rain"].images == IMAGES / 5
    assert comparison.slices["weather:rain"].objects == 6 * IMAGES / 5
    small = labels.objects.area < 1000
    assert comparison.slices["size:small"].objects == small.sum()
    assert comparison.slices["size:small"].images == len(set(labels.objects.image[small]))


def test_one_lost_class_is_named_and_no_other(labels):
    worse = np.where(labels.objects.labels == PERSON, 0.7, 0.9)
    comparison = compare_networks(labels, detect(labels, 1), detect(labels, 2, worse), only(), THRESHOLD)
    assert proven_drops(comparison.slices["all"], BY_CLASS) == {"AP/person", "recall/person"}
    changes = find_changes(labels, detect(labels, 1), detect(labels, 2, worse), THRESHOLD)
    lost = {each.name: (each.lost - each.lost_below_threshold) / each.objects for each in changes.classes}
    assert lost["person"] > 2 * max(lost["car"], lost["cyclist"])


def test_one_lost_slice_is_named_and_no_other(labels):
    far = np.where(labels.objects.area < 1000, 0.7, 0.9)
    comparison = compare_networks(
        labels, detect(labels, 1), detect(labels, 2, far), only("size", "distance"), THRESHOLD
    )
    assert len(comparison.slices) == 1 + 3 + 3
    for metric in ("recall", "AP"):
        assert proven_slices(comparison, metric) - {"all"} == {"size:small", "distance:far"}


def test_a_lost_tag_is_named(labels):
    wet = np.where((labels.tags["weather"] == "rain")[labels.objects.image], 0.6, 0.9)
    comparison = compare_networks(labels, detect(labels, 1), detect(labels, 2, wet), only("weather"), THRESHOLD)
    assert len(comparison.slices) == 3
    for metric in ("recall", "AP"):
        assert proven_slices(comparison, metric) - {"all"} == {"weather:rain"}


def test_a_threshold_shift_leaves_ap_and_is_told_with_the_threshold_that_undoes_it(labels):
    reference = detect(labels, 1)
    shifted = replace(reference, scores=reference.scores * np.float32(0.75))
    comparison = compare_networks(labels, reference, shifted, only(), THRESHOLD)
    everywhere = comparison.slices["all"]
    assert everywhere.drop["AP"].value == everywhere.drop["AP"].low == everywhere.drop["AP"].high == 0
    assert everywhere.drop["recall"].low > 0.1
    assert everywhere.drop["false_alarms"].high < 0, "fewer false alarms, too"
    thresholds = comparison.thresholds
    assert thresholds.deployed == THRESHOLD
    assert thresholds.restoring == pytest.approx(0.75 * THRESHOLD, abs=0.002)
    assert thresholds.precision >= everywhere.reference["precision"].value
    assert thresholds.recall >= everywhere.reference["recall"].value
    changes = find_changes(labels, reference, shifted, THRESHOLD)
    assert len(changes.lost) > 100
    assert all(each.lost == each.lost_below_threshold for each in changes.classes)


def test_paired_intervals_are_narrower_than_those_of_either_network(labels):
    reference = detect(labels, 1)
    network = replace(reference, scores=np.clip(reference.scores - 0.01, 0, 1))
    everywhere = compare_networks(labels, reference, network, only(), THRESHOLD).slices["all"]

    def width(estimate):
        return estimate.high - estimate.low

    assert 0 < width(everywhere.drop["recall"]) < width(everywhere.reference["recall"]) / 2
    found = everywhere.reference["recall"]
    assert found.low < found.value < found.high
    assert everywhere.drop["recall"].value == found.value - everywhere.network["recall"].value


def test_an_image_slice_has_the_figures_of_its_images_alone(labels):
    found = detect(labels, 1)
    comparison = compare_networks(labels, found, found, only("weather"), THRESHOLD)
    rain = np.flatnonzero(labels.tags["weather"] == "rain")
    objects, mine = np.isin(labels.objects.image, rain), np.isin(found.image, rain)
    alone = replace(
        labels,
        names=tuple(labels.names[i] for i in rain),
        objects=replace(labels.objects.keep(objects), image=np.searchsorted(rain, labels.objects.image[objects])),
    )
    kept = replace(found.keep(mine), names=alone.names, image=np.searchsorted(rain, found.image[mine]))
    expected = tally_boxes(alone, kept, THRESHOLD).figures(np.ones((len(rain), 1)))
    for name, figure in comparison.slices["weather:rain"].reference.items():
        assert figure.value == pytest.approx(expected[name][0], abs=1e-12), name


def test_corrupted_images_are_slices_of_their_own(labels):
    reference, network = detect(labels, 1), detect(labels, 2)
    foggy = (detect(labels, 3), detect(labels, 4, 0.5))
    comparison = compare_networks(labels, reference, network, only(), THRESHOLD, {"fog:3": foggy})
    assert list(comparison.slices) == ["all", "fog:3"]
    assert comparison.slices["fog:3"].images == IMAGES
    assert comparison.slices["fog:3"].drop["recall"].low > 0.2
    assert not comparison.slices["all"].drop["recall"].low > 0


def test_a_network_that_finds_nothing_loses_all_that_the_reference_has(labels):
    reference = detect(labels, 1)
    nothing = reference.keep(np.zeros(len(reference.labels), bool))
    comparison = compare_networks(labels, reference, nothing, only(), THRESHOLD)
    everywhere = comparison.slices["all"]
    for metric in ("AP", "recall"):
        assert everywhere.network[metric].value == 0
        drop, figure = everywhere.drop[metric], everywhere.reference[metric]
        assert drop.value == figure.value
        # A drop has the percentiles of the resamples, a figure the same mirrored, within 0-1.
        assert figure.low == pytest.approx(2 * drop.value - drop.high)
        assert figure.high == pytest.approx(min(1.0, 2 * drop.value - drop.low))
    assert everywhere.drop["false_alarms"].value == -everywhere.reference["false_alarms"].value
    assert math.isnan(everywhere.drop["precision"].value)
    assert math.isnan(comparison.thresholds.restoring)
    changes = find_changes(labels, reference, nothing, THRESHOLD)
    assert len(changes.lost) == round(everywhere.reference["recall"].value * everywhere.objects)


def test_several_networks_beside_one_reference_are_judged_as_each_alone(labels):
    reference, networks = detect(labels, 1), {"ort": detect(labels, 2), "openvino": detect(labels, 3)}
    together = compare_each(labels, reference, networks, only("weather"), THRESHOLD)

    for name, network in networks.items():
        alone = compare_networks(labels, reference, network, only("weather"), THRESHOLD)
        assert repr(together[name]) == repr(alone)


def test_figures_by_size_have_an_interval_in_the_whole_set_alone(labels):
    comparison = compare_networks(labels, detect(labels, 1), detect(labels, 2), only("weather"), THRESHOLD)
    everywhere, rain = (comparison.slices[name].drop for name in ("all", "weather:rain"))

    assert not math.isnan(everywhere["AP_small"].low)
    assert not math.isnan(rain["AP"].low)
    assert not math.isnan(rain["AP_small"].value)
    assert math.isnan(rain["AP_small"].low)


def test_what_rests_on_few_images_gets_no_interval(labels):
    few = labels.objects.keep((labels.objects.labels != PERSON) | (labels.objects.image < FEWEST_IMAGES - 1))
    everywhere = compare_networks(
        replace(labels, objects=few), detect(labels, 1), detect(labels, 2), only(), THRESHOLD
    ).slices["all"]
    assert math.isfinite(everywhere.reference["recall/person"].value)
    assert math.isnan(everywhere.reference["recall/person"].low)
    assert math.isnan(everywhere.drop["recall/person"].high)
    assert math.isfinite(everywhere.drop["recall/car"].high)
    assert math.isfinite(everywhere.drop["false_alarms/person"].high)


def masks_of(labels):
    return tuple(encode_mask(mask) for mask in labels)


@pytest.fixture(scope="module")
def streets():
    """40 masks of 48 x 60: sky above, road below, a car in one of three columns; every other image in rain."""
    rng = np.random.default_rng(0)
    masks = []
    for _ in range(40):
        mask = np.zeros((48, 60), np.uint8)
        mask[: rng.integers(14, 20)] = 2
        left = rng.integers(3) * 20 + rng.integers(2, 8)
        mask[30:40, left : left + 10] = 1
        masks.append(mask)
    return masks


def noisy(masks, seed, wrong):
    """The masks with a share of their pixels wrong; `wrong` tells the share of each pixel of a mask."""
    rng = np.random.default_rng(seed)
    return [np.where(rng.random(m.shape) < wrong(i, m), (m + 1) % 3, m).astype(np.uint8) for i, m in enumerate(masks)]


def compare_masks(masks, wrong):
    names = tuple(f"{i}.png" for i in range(len(masks)))
    weather = np.where(np.arange(len(masks)) % 2 == 0, "rain", "dry")
    sizes = np.full((len(masks), 2), (48, 60), np.int32)
    classes, dark = ("road", "car", "sky"), np.zeros(len(masks), np.float32)
    truth = Truth(names, classes, "0" * 64, sizes, dark, {"weather": weather}, masks=masks_of(masks))
    reference = MaskPredictions(names, masks_of(noisy(masks, 1, lambda *_: 0.05)))
    network = MaskPredictions(names, masks_of(noisy(masks, 2, wrong)))
    return compare_networks(truth, reference, network, SETTINGS)


def test_a_lost_class_of_pixels_is_named(streets):
    comparison = compare_masks(streets, lambda _, mask: np.where(mask == 1, 0.2, 0.05))
    everywhere = comparison.slices["all"]
    by_class = [f"IoU/{name}" for name in ("road", "car", "sky")]
    # The wrong pixels are taken for sky, which loses a little, too; the road does not.
    assert everywhere.drop["IoU/car"].low > 0.05
    assert not everywhere.drop["IoU/road"].low > 0.01
    assert max(by_class, key=lambda name: everywhere.drop[name].value) == "IoU/car"
    assert comparison.thresholds is None
    assert everywhere.objects == 40 * 48 * 60


def test_a_lost_part_of_the_image_is_named(streets):
    comparison = compare_masks(streets, lambda *_: np.where(np.arange(60) < 20, 0.1, 0.05))
    bands = {name for name in comparison.slices if name.startswith("position")}
    assert bands == {f"position:{place}" for place in ("left", "center", "right", "top", "middle", "bottom")}
    columns = {"position:left", "position:center", "position:right"}
    assert proven_slices(comparison, "mIoU") & columns == {"position:left"}
    assert comparison.slices["position:left"].objects == 40 * 48 * 20


def test_rainy_masks_are_named(streets):
    comparison = compare_masks(streets, lambda image, _: 0.1 if image % 2 == 0 else 0.05)
    assert proven_slices(comparison, "mIoU") & {"weather:rain", "weather:dry"} == {"weather:rain"}


def test_predictions_that_do_not_belong_together_are_refused(labels):
    found = detect(labels, 1)
    with pytest.raises(ValueError, match="expected 150 images, got 149"):
        compare_networks(labels, found, replace(found, names=found.names[1:]), SETTINGS, THRESHOLD)
    with pytest.raises(ValueError, match="expected a score threshold, got None"):
        compare_networks(labels, found, found, SETTINGS)
