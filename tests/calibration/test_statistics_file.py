"""calibration.statistics_file: what was written is read, and nothing else is."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from avcompress.spec import DataError
from calibration.histogram import Histogram, histogram
from calibration.statistics import Image, Statistics, TensorStatistics
from calibration.statistics_file import from_bytes, load_statistics, save_statistics, to_bytes


def some(values=(-1.0, 0.0, 3.5), repeat=1):
    hist = histogram(np.repeat(np.float32(values), repeat))
    tensors = {
        "b/é": TensorStatistics(hist, np.float32([[hist.low, hist.high]])),
        "a": TensorStatistics(hist, np.float32([[0, 1]])),
    }
    return Statistics("net", "pre", (Image("x.jpg", "0f"),), tensors)


def assert_equal(one, other):
    assert (one.network, one.preprocess, one.images) == (other.network, other.preprocess, other.images)
    assert one.tensors.keys() == other.tensors.keys()
    for name, tensor in one.tensors.items():
        a, b = tensor.histogram, other.tensors[name].histogram
        assert (a.exponent, a.low, a.high) == (b.exponent, b.low, b.high)
        assert np.array_equal(a.counts, b.counts)
        assert np.array_equal(tensor.extremes, other.tensors[name].extremes)


@given(
    values=hnp.arrays(
        np.float32, st.integers(1, 30), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)
    ),
    repeat=st.sampled_from([1, 300, 70_000]),
)
@settings(deadline=None, max_examples=40)
def test_a_file_holds_what_was_written(values, repeat):
    found = some(values, repeat)

    assert_equal(from_bytes(to_bytes(found)), found)


def test_equal_statistics_give_equal_bytes_whatever_the_order_of_tensors(tmp_path):
    found = some()
    reordered = Statistics(found.network, found.preprocess, found.images, dict(reversed(found.tensors.items())))

    save_statistics(reordered, tmp_path / "deep" / "a.stats")

    assert (tmp_path / "deep" / "a.stats").read_bytes() == to_bytes(found)
    assert_equal(load_statistics(tmp_path / "deep" / "a.stats"), found)


@pytest.mark.parametrize("size", [0, 10, 50, 80, 300, -1])
def test_a_truncated_file_is_refused_in_one_line(tmp_path, size):
    path = tmp_path / "cut.stats"
    path.write_bytes(to_bytes(some())[:size])

    with pytest.raises(DataError, match=r"cut\.stats: expected .*; (copy it again|check the path)") as caught:
        load_statistics(path)
    assert "\n" not in str(caught.value)


@given(position=st.integers(60, 400), change=st.integers(1, 255))
def test_a_changed_byte_is_noticed(position, change):
    data = bytearray(to_bytes(some()))
    data[position % len(data)] ^= change

    with pytest.raises(DataError):
        from_bytes(bytes(data))


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04 a zip", b"avcompress calibration statistics, version x\n", b"\n\n"]
)
def test_a_foreign_file_is_refused(content):
    with pytest.raises(DataError, match="expected statistics of `avcompress calibrate`, got something else"):
        from_bytes(content)


def test_another_version_is_refused_by_its_number():
    data = to_bytes(some()).replace(b"version 1\n", b"version 7\n", 1)

    with pytest.raises(DataError, match="expected statistics of version 1, got version 7"):
        from_bytes(data)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"exponent":', b'"exponent":9'),
        (b'"bins":', b'"bins":1'),
        (b'"first":', b'"first":1'),
        (b'"low":-1.0', b'"low":NaN'),
        (b'"network"', b'"netwerk"'),
        (b'"images":[["x.jpg","0f"]]', b'"images":[]'),
    ],
)
def test_facts_that_do_not_fit_together_are_refused(old, new):
    magic, _, rest = to_bytes(some()).partition(b"\n")
    content = rest[32:]
    length = int.from_bytes(content[:8], "little")
    text = content[8 : 8 + length].replace(old, new)
    assert text != content[8 : 8 + length]
    content = len(text).to_bytes(8, "little") + text + content[8 + length :]

    with pytest.raises(DataError, match="expected statistics that fit together"):
        from_bytes(magic + b"\n" + hashlib.sha256(content).digest() + content)


def test_what_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(DataError, match="expected a readable file of statistics, got No such file"):
        load_statistics(tmp_path / "none")
    with pytest.raises(DataError, match="expected a readable file of statistics, got Is a directory"):
        load_statistics(tmp_path)


@pytest.mark.parametrize("changes", [{"low": 9.0}, {"high": 1e300}, {"extremes": np.nan}])
def test_values_that_contradict_each_other_are_refused(changes):
    found = some()
    hist, extremes = found.tensors["a"].histogram, found.tensors["a"].extremes
    limits = {"low": hist.low, "high": hist.high} | {k: v for k, v in changes.items() if k in {"low", "high"}}
    tensor = TensorStatistics(
        Histogram(hist.counts, hist.exponent, **limits), extremes * np.float32(changes.get("extremes", 1))
    )

    with pytest.raises(DataError, match="expected statistics that fit together"):
        from_bytes(to_bytes(Statistics("net", "pre", found.images, {"a": tensor})))


def test_a_version_of_thousands_of_digits_is_something_else():
    data = to_bytes(some()).replace(b"version 1\n", b"version " + b"9" * 5000 + b"\n", 1)

    with pytest.raises(DataError, match="got something else"):
        from_bytes(data)
