"""avcompress.onnx_import.pooling: pooling gives the numbers of ONNX Runtime, to the last window."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

WINDOWS = [
    {"kernel_shape": [2, 2], "strides": [2, 2]},
    {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]},
    {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1},
    {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "ceil_mode": 1},
    {"kernel_shape": [3, 3], "pads": [0, 1, 2, 1]},
    {"kernel_shape": [3, 2], "auto_pad": "SAME_UPPER", "strides": [2, 2]},
    {"kernel_shape": [3, 2], "auto_pad": "SAME_LOWER", "strides": [2, 2]},
    {"kernel_shape": [5, 5], "pads": [2, 2, 2, 2]},
]


@pytest.mark.parametrize("attributes", WINDOWS, ids=str)
def test_max_pooling(attributes, x, check):
    check("MaxPool", x, **attributes)


@pytest.mark.parametrize("attributes", WINDOWS, ids=str)
@pytest.mark.parametrize("include", [0, 1])
def test_average_pooling(attributes, include, x, check):
    check("AveragePool", x, count_include_pad=include, opset=19, **attributes)


def test_dilated_max_pooling_and_other_dimensions(x, check):
    check("MaxPool", x, kernel_shape=[2, 2], dilations=[2, 3])
    check("MaxPool", x[0], kernel_shape=[3], pads=[1, 1], strides=[2])
    check("AveragePool", x[0], kernel_shape=[3], pads=[2, 0], strides=[2])
    check("AveragePool", x[None], kernel_shape=[2, 3, 2], pads=[1, 0, 0, 0, 1, 1])


def test_global_pooling(x, check):
    check("GlobalAveragePool", x)
    check("GlobalMaxPool", x)


@settings(max_examples=80, deadline=None)
@given(
    size=st.tuples(st.integers(4, 9), st.integers(4, 9)),
    kernel=st.tuples(st.integers(2, 4), st.integers(2, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    pads=st.tuples(*[st.integers(0, 1)] * 4),
    ceil=st.booleans(),
    include=st.booleans(),
)
def test_any_window(network, agree, size, kernel, stride, pads, ceil, include):
    feeds = {"x": np.random.default_rng(0).normal(0, 1, (1, 2, *size)).astype(np.float32)}
    shared = {"kernel_shape": kernel, "strides": stride, "pads": pads, "ceil_mode": int(ceil)}
    nodes = [
        helper.make_node("MaxPool", ["x"], ["m"], "max", **shared),
        helper.make_node("AveragePool", ["x"], ["a"], "mean", count_include_pad=int(include), **shared),
    ]

    agree(network(nodes, feeds, {}, ["m", "a"], 19), feeds)
