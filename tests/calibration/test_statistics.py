"""calibration.statistics: merging, whatever the split."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avcompress.recipe import Preprocess
from avcompress.spec import DataError
from calibration import statistics as module
from calibration.histogram import histogram
from calibration.statistics import (
    Image,
    Statistics,
    TensorStatistics,
    image_digest,
    merge_statistics,
    preprocess_digest,
    union,
)
from calibration.statistics_file import to_bytes


def of_images(numbers, tensors=("a", "b"), network="n", preprocess="p"):
    """As if the images of these numbers had been observed."""
    parts = [_of_image(number, tensors, network, preprocess) for number in numbers]
    return merge_statistics({str(i): part for i, part in enumerate(parts)})


def _of_image(number, tensors, network, preprocess):
    rng = np.random.default_rng(number)
    found = {}
    for tensor in tensors:
        hist = histogram((rng.standard_normal(20) * 10 ** rng.uniform(-3, 3)).astype(np.float32))
        found[tensor] = TensorStatistics(hist, np.float32([[hist.low, hist.high]]))
    return Statistics(network, preprocess, (Image(f"{number:03d}.jpg", f"{number:x}"),), found)


@given(data=st.data(), count=st.integers(1, 12))
@settings(deadline=None, max_examples=30)
def test_any_tree_of_merges_gives_the_same_bytes(data, count):
    at_once = to_bytes(of_images(range(count)))
    parts = [of_images([number]) for number in data.draw(st.permutations(range(count)))]
    while len(parts) > 1:
        i = data.draw(st.integers(0, len(parts) - 2))
        parts[i : i + 2] = [merge_statistics({"one": parts[i], "other": parts[i + 1]})]

    assert to_bytes(parts[0]) == at_once


def test_only_the_last_images_by_name_keep_their_extremes(monkeypatch):
    monkeypatch.setattr(module, "WINDOW", 3)

    forth, back = of_images(range(5)), of_images([4, 2, 0, 1, 3])

    last = [of_images([number]).tensors["a"].extremes[0] for number in (2, 3, 4)]
    assert np.array_equal(forth.tensors["a"].extremes, last)
    assert np.array_equal(back.tensors["a"].extremes, last)
    assert len(forth.images) == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": "m"}, "two: expected statistics of the same network as one, n, got m"),
        ({"preprocess": "q"}, "two: expected statistics of the same preprocessing as one, p, got q"),
        (
            {"tensors": ("a", "c")},
            "two: expected statistics of the same tensors as one, 2 are in one of them only, 'b'",
        ),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(changes, message):
    with pytest.raises(DataError, match=message):
        merge_statistics({"one": of_images([1]), "two": of_images([2], **changes)})


def test_images_that_are_counted_twice_are_named():
    parts = {"one": of_images([1, 2, 3]), "two": of_images([4]), "three": of_images([3, 2, 5])}

    with pytest.raises(
        DataError, match=r"three: expected images .* got 2 that are counted already, '002.jpg' .* in one"
    ):
        merge_statistics(parts)


def test_two_images_of_one_name_are_different_images():
    one, other = of_images([1]), of_images([2])
    renamed = Statistics(other.network, other.preprocess, (Image("001.jpg", "2"),), other.tensors)

    assert len(merge_statistics({"one": one, "other": renamed}).images) == 2


def test_the_union_of_tensors_counts_all_their_values():
    a, b = TensorStatistics(histogram(np.float32([-1, 2])), np.float32([[-1, 1], [0, 2]])), None
    b = TensorStatistics(histogram(np.float32([-8, 3])), np.float32([[-8, 0], [1, 3]]))

    both = union([a, b])

    assert (both.histogram.low, both.histogram.high, both.histogram.counts.sum()) == (-8, 3, 4)
    assert both.extremes.tolist() == [[-8, 1], [0, 3]]


def test_digests_tell_images_and_settings_apart():
    image = np.zeros((1, 3, 8, 8), np.float32)
    other = image.copy()
    other[0, 0, 4, 4] = 1

    assert image_digest(image) == image_digest(image.copy()) != image_digest(other)
    assert preprocess_digest(Preprocess(size=(32, 32))) != preprocess_digest(Preprocess(size=(32, 32), pad=0))
