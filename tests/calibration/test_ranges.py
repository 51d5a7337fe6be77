"""calibration.ranges: every method, symmetric and asymmetric, against NumPy and ONNX Runtime."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avcompress.recipe import Ptq
from avcompress.spec import TensorRange
from calibration.histogram import histogram, merge
from calibration.ranges import moving_average, range_from
from calibration.statistics import TensorStatistics

METHODS = ("mse", "minmax", "moving_average", "percentile", "entropy")
KINDS = ("symmetric", "asymmetric")


def statistics(*images):
    hists = [histogram(np.float32(image)) for image in images]
    whole = hists[0]
    for hist in hists[1:]:
        whole = merge(whole, hist)
    return TensorStatistics(whole, np.float32([(hist.low, hist.high) for hist in hists]))


def ptq(**changes):
    return Ptq(kind="ptq", **changes)


def test_minmax_keeps_every_value():
    found = statistics([-3, 1], [2])

    assert range_from(found, ptq(ranges="minmax")) == TensorRange((-3.0,), (3.0,))
    assert range_from(found, ptq(ranges="minmax", activations="asymmetric")) == TensorRange((-3.0,), (2.0,))


def test_fp8_is_symmetric_whatever_the_activations_are():
    settings_ = ptq(ranges="minmax", activations="asymmetric", format="fp8")

    assert range_from(statistics([-3, 1]), settings_) == TensorRange((-3.0,), (3.0,))


def test_the_moving_average_weighs_later_images_more():
    low, high = moving_average(np.float32([[-1, 1], [-2, 4]]))

    assert low == pytest.approx((-0.99 - 2) / 1.99)
    assert high == pytest.approx((0.99 + 4) / 1.99)


@given(values=st.lists(st.floats(0.5, 100, width=32), min_size=1, max_size=40))
def test_the_moving_average_is_the_recursion_with_its_bias_corrected(values):
    average = 0.0
    for value in values:
        average = 0.99 * average + 0.01 * value
    corrected = average / (1 - 0.99 ** len(values))

    assert moving_average(np.float32([[-v, v] for v in values])) == pytest.approx((-corrected, corrected))


def test_the_moving_average_of_one_image_is_its_range():
    found = statistics([-1, 0.5])

    assert range_from(found, ptq(ranges="moving_average")) == TensorRange((-1.0,), (1.0,))
    assert range_from(found, ptq(ranges="moving_average", activations="asymmetric")) == TensorRange((-1.0,), (0.5,))


@pytest.mark.parametrize("percentile", [99.0, 99.9, 99.99])
def test_percentiles_agree_with_numpy(percentile):
    x = np.random.default_rng(0).standard_normal(400_000).astype(np.float32) + 0.5
    found = statistics(x)

    (clip,) = range_from(found, ptq(ranges="percentile", percentile=percentile)).high
    both = range_from(found, ptq(ranges="percentile", percentile=percentile, activations="asymmetric"))

    assert clip == pytest.approx(np.percentile(np.abs(x), percentile), rel=1e-2)
    outside = (100 - percentile) / 2
    assert (both.low[0], both.high[0]) == pytest.approx(np.percentile(x, [outside, 100 - outside]), rel=2e-2)


@pytest.mark.parametrize("symmetric", [True, False])
def test_percentiles_agree_with_onnx_runtime(symmetric):
    from onnxruntime.quantization.calibrate import HistogramCollector

    x = np.random.default_rng(1).standard_normal(200_000).astype(np.float32)
    collector = HistogramCollector(
        method="percentile",
        symmetric=symmetric,
        num_bins=2048,
        num_quantized_bins=255,
        percentile=99.9,
        scenario=None,
    )
    collector.collect({"x": [x]})

    low, high, *_ = collector.compute_percentile()["x"]

    kind = "symmetric" if symmetric else "asymmetric"
    ours = range_from(statistics(x), ptq(ranges="percentile", percentile=99.9, activations=kind))
    assert (ours.low[0], ours.high[0]) == pytest.approx((float(low), float(high)), abs=0.02)


def test_all_values_are_inside_the_hundredth_percentile():
    found = statistics([-3, 1, 2.5])
    settings_ = ptq(ranges="percentile", percentile=100, activations="asymmetric")

    assert range_from(found, settings_) == TensorRange((-3.0,), (2.5,))


def test_entropy_clips_the_longer_side_only_where_the_other_is_shorter():
    x = np.random.default_rng(2).standard_normal(300_000).astype(np.float32)
    x = np.maximum(x, -0.25)

    found = range_from(statistics(x), ptq(ranges="entropy", activations="asymmetric"))

    assert found.low == (-0.25,)
    assert 1.5 < found.high[0] <= x.max()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [0.0, 1e-45, 1e-38, 0.3, -0.3, 255.0, 3.4e38])
def test_a_constant_tensor_keeps_its_value(value, method, kind):
    found = range_from(statistics(np.full(5, value), np.full(5, value)), ptq(ranges=method, activations=kind))

    assert found.low[0] <= found.high[0]
    if value == 0:
        assert found == TensorRange((-1.0,), (1.0,))
    else:
        largest = max(found.high[0], -found.low[0])
        assert largest == pytest.approx(abs(float(np.float32(value))), rel=1e-2)


@given(seed=st.integers(0, 500))
@settings(deadline=None, max_examples=15)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", METHODS)
def test_no_range_is_wider_than_the_values_and_the_order_of_images_does_not_matter(method, kind, seed):
    rng = np.random.default_rng(seed)
    images = [np.float32(rng.standard_normal(500) * rng.uniform(0.1, 10) + rng.uniform(-1, 1)) for _ in range(3)]
    settings_ = ptq(ranges=method, activations=kind)

    found = range_from(statistics(*images), settings_)

    lowest, highest = float(np.min(images)), float(np.max(images))
    amax = max(highest, -lowest)
    low, high = (-amax, amax) if kind == "symmetric" else (min(lowest, 0), max(highest, 0))
    assert low - 1e-6 <= found.low[0] <= found.high[0] <= high + 1e-6
    if method != "moving_average":
        assert range_from(statistics(*images[::-1]), settings_) == found
