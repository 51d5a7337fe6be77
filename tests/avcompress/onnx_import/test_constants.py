"""avcompress.onnx_import.constants: what is folded, what is trained."""

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper, numpy_helper

from avcompress.onnx_import.constants import as_tensor, trained, values_of
from avcompress.spec import ModelError


def graph(nodes, **constants):
    made = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    return helper.make_graph(nodes, "g", [], [], made)


def test_what_is_added_to_a_product_is_trained_only_as_a_vector():
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Add", ["m", "b"], ["y"])]
    nodes += [helper.make_node("Add", ["y", "grid"], ["z"])]

    constants = {"w": np.ones((3, 3)), "b": np.ones(3), "grid": np.ones((2, 3))}

    assert trained(graph(nodes, **constants)) == {"w", "b"}


def test_stored_integers_are_read_as_the_floats_that_they_stand_for():
    node = helper.make_node("DequantizeLinear", ["q", "s", "z"], ["w"], axis=0)
    stored = np.array([[1, -2], [3, 4]], np.int8)

    values, kinds = values_of(graph([node], q=stored, s=np.array([0.5, 2], np.float32), z=np.array([1, 0], np.int8)))

    assert values["q"].tolist() == [[0.0, -1.5], [6.0, 8.0]]
    assert kinds["q"] == TensorProto.INT8


def test_two_scales_for_one_constant_are_refused():
    nodes = [helper.make_node("DequantizeLinear", ["q", name], [name + "o"], name) for name in ("s", "t")]
    scales = {name: np.array(1, np.float32) for name in ("s", "t")}

    with pytest.raises(ModelError, match=r"node 't' \(DequantizeLinear\): expected one scale for the constant 'q'"):
        values_of(graph(nodes, q=np.array([1], np.int8), **scales))


@given(hnp.arrays(np.float32, st.integers(0, 5), elements=st.floats(-100, 100, width=16)))
def test_tensors_have_the_values_of_arrays_in_every_type(values):
    for dtype in (np.float32, np.float16, np.float64, ml_dtypes.bfloat16):
        expected = values.astype(dtype)
        assert as_tensor(expected).double().tolist() == expected.astype(np.float64).tolist()


def test_a_tensor_has_memory_of_its_own():
    values = np.ones(2, np.float32)
    as_tensor(values).zero_()

    assert values.tolist() == [1, 1]


def test_bfloat16_stays_bfloat16():
    assert as_tensor(np.ones(1, ml_dtypes.bfloat16)).dtype == torch.bfloat16
