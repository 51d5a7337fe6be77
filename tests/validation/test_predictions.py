import numpy as np
import pytest

from avcompress.spec import DataError, EngineError
from calibration.sample import Sample
from engines.postprocess import Detections
from validation.mask_png import decode_mask
from validation.predictions import BoxPredictions, MaskPredictions, collect

CLASSES = ("car", "person")


def detections(*rows):
    """Each row is left, top, right, bottom, score, class."""
    table = np.array(rows, np.float32).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5].astype(np.int64))


def sample(name):
    return Sample(name, np.zeros((40, 60, 3), np.uint8))


# --- gathering


def test_detections_are_gathered_image_after_image():
    found = collect(
        [
            (sample("a"), detections((1, 2, 3, 4, 0.5, 1))),
            (sample("b"), detections()),
            (sample("c"), detections((0, 0, 9, 9, 0.75, 0), (1, 1, 5, 5, 0.25, 1))),
        ],
        CLASSES,
    )

    assert isinstance(found, BoxPredictions)
    assert found.names == ("a", "b", "c")
    assert found.image.tolist() == [0, 2, 2]
    assert found.xyxy.tolist() == [[1, 2, 3, 4], [0, 0, 9, 9], [1, 1, 5, 5]]
    assert found.scores.tolist() == [0.5, 0.75, 0.25]
    assert found.labels.tolist() == [1, 0, 1]
    kinds = [str(column.dtype) for column in (found.image, found.xyxy, found.scores, found.labels)]
    assert kinds == ["int64", "float32", "float32", "int64"]


def test_a_network_that_finds_nothing_is_no_mistake():
    found = collect([(sample("a"), detections())], CLASSES)

    assert found.xyxy.shape == (0, 4)
    assert found.names == ("a",)


def test_masks_are_gathered_as_png():
    masks = [np.random.default_rng(n).integers(0, 3, (40, 60), np.uint8) for n in range(2)]

    found = collect([(sample(str(n)), mask) for n, mask in enumerate(masks)], CLASSES)

    assert isinstance(found, MaskPredictions)
    assert all((decode_mask(png) == mask).all() for png, mask in zip(found.masks, masks, strict=True))


def test_no_image_at_all_is_refused():
    with pytest.raises(DataError, match="expected at least one to predict on, got none"):
        collect([], CLASSES)


def test_a_class_beyond_the_table_names_the_image():
    with pytest.raises(EngineError, match=r"b: expected classes 0\.\.1, got 2; list the network's classes"):
        collect([(sample("a"), detections()), (sample("b"), detections((0, 0, 1, 1, 0.5, 2)))], CLASSES)
