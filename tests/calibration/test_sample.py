import numpy as np
import pytest

from calibration.sample import Boxes, LabelledBox, stack


def test_boxes_that_disagree_about_their_number_are_refused() -> None:
    with pytest.raises(ValueError, match="expected 2 of each"):
        Boxes(np.zeros((1, 4), np.float32), np.zeros(2, np.int64), np.zeros(2, bool), np.zeros(2))


def test_keep_takes_the_wanted_objects_of_all_four_arrays() -> None:
    boxes = stack([LabelledBox((0, 0, n, n), n, n * n, crowd=n == 2) for n in (1, 2, 3)])

    kept = boxes.keep(np.array([False, True, True]))

    assert kept.xyxy[:, 2].tolist() == [2, 3]
    assert kept.labels.tolist() == [2, 3]
    assert kept.ignore.tolist() == [True, False]
    assert kept.area.tolist() == [4, 9]
