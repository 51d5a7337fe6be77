import numpy as np

from avcompress.recipe import Preprocess
from calibration.batches import batches
from calibration.preprocess import preprocess
from calibration.source import Sample


def test_each_batch_is_one_preprocessed_image_under_the_input_name() -> None:
    how = Preprocess(size=(8, 8))
    samples = [Sample(str(n), np.full((4, 6, 3), n, np.uint8)) for n in range(3)]

    made = list(batches(iter(samples), how, "images"))

    assert [list(batch) for batch in made] == [["images"]] * 3
    for sample, batch in zip(samples, made, strict=True):
        np.testing.assert_array_equal(batch["images"], preprocess(sample.image, how)[0])


def test_images_are_asked_for_one_at_a_time() -> None:
    asked = []

    def samples():
        for n in range(3):
            asked.append(n)
            yield Sample(str(n), np.zeros((4, 4, 3), np.uint8))

    next(batches(samples(), Preprocess(size=(4, 4)), "x"))

    assert asked == [0]
