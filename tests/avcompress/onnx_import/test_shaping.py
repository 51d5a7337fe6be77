"""avcompress.onnx_import.shaping: values arrive where ONNX Runtime puts them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from avcompress.onnx_import import import_onnx
from avcompress.onnx_import.shaping import LOWERINGS
from avcompress.spec import ModelError


def const(*values):
    return ("c", np.array(values, np.int64))


def count(*shape):
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


@pytest.mark.parametrize("shape", [(1, -1), (4, 3, 21), (0, 0, -1), (1, 2, 2, 63), (1, 252)])
def test_reshape(shape, x, check):
    check("Reshape", x, const(*shape))


@pytest.mark.parametrize("axis", [0, 1, 2, 4, -1])
def test_flatten(axis, x, check):
    check("Flatten", x, axis=axis)


def test_transpose(x, check):
    check("Transpose", x, perm=[0, 2, 3, 1])
    check("Transpose", x)


def test_squeeze_and_unsqueeze(check):
    check("Squeeze", count(1, 3, 1, 2), const(0, -2))
    check("Squeeze", count(1, 3, 1, 2))
    check("Unsqueeze", count(3, 2), const(-1, 0))


def test_expand_and_tile(check):
    check("Expand", count(3, 1), const(2, 1, 4))
    check("Tile", count(1, 3, 2), const(1, 2, 3))


def test_concat(x, check):
    check("Concat", x, x + 1, ("c", x - 1), axis=1)
    check("Concat", x, x, axis=-1)


def test_split(x, check):
    check("Split", x, const(1, 3), outputs=2, axis=1)
    check("Split", x, outputs=2, axis=1)
    check("Split", x, outputs=2, axis=-1, num_outputs=2, opset=18)


@pytest.mark.parametrize(
    ("starts", "ends", "axes", "steps"),
    [
        ([1, 2], [3, 9223372036854775807], [1, 2], [1, 2]),
        ([-3], [-1], [3], [1]),
        ([-1], [-9223372036854775808], [3], [-1]),
        ([5], [0], [2], [-2]),
        ([0, 0], [100, 2], [2, 3], [1, 1]),
    ],
)
def test_slice(starts, ends, axes, steps, x, check):
    check("Slice", x, const(*starts), const(*ends), const(*axes), const(*steps))


@settings(max_examples=60, deadline=None)
@given(st.integers(-9, 9), st.integers(-9, 9), st.sampled_from([-3, -1, 1, 2]))
def test_slices_are_those_of_numpy(start, end, step):
    values = np.arange(6, dtype=np.float32)[None]
    expected = values[:, slice(start, end, step)]
    if expected.size == 0 or (step < 0 and not end >= -6):
        return  # below the first element ONNX stops at it, Python before it
    node = helper.make_node("Slice", ["x", "s", "e", "a", "t"], ["y"], "n")
    constants = {k: np.array([v], np.int64) for k, v in {"s": start, "e": end, "a": 1, "t": step}.items()}
    model = _model([node], {"x": values}, constants)

    assert import_onnx(model)(torch.from_numpy(values)).tolist() == expected.tolist()


def _model(nodes, feeds, constants):
    from onnx import TensorProto, numpy_helper

    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(k, TensorProto.FLOAT, v.shape) for k, v in feeds.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


@pytest.mark.parametrize("indices", [np.array(2), np.array(-1), np.array([0, -2, 1]), np.array([[0, 1], [2, 3]])])
def test_gather_by_constants(indices, x, check):
    check("Gather", x, ("c", indices.astype(np.int64)), axis=1)


def test_gather_by_computed_indices(x, check):
    check("Gather", x, np.array([[3, -4], [1, 0]], np.int64), axis=1)
    check("GatherElements", x, np.full((1, 2, 7, 9), -1, np.int64), axis=1)
    check("GatherND", x, np.array([[0, 1], [0, 3]], np.int64))


def test_scatter(x, check):
    indices, updates = np.zeros((1, 1, 7, 9), np.int64), np.ones((1, 1, 7, 9), np.float32)
    check("ScatterElements", x, ("c", indices), updates, axis=1)
    check("ScatterND", x, ("c", np.array([[0, 1]])), np.ones((1, 7, 9), np.float32))


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge"])
def test_pad(mode, x, check):
    check("Pad", x, const(0, 0, 1, 2, 0, 0, 3, 0), mode=mode)


def test_pad_with_a_value_crops_and_takes_axes(x, check):
    check("Pad", x, const(0, 1, -1, 2, 0, 0, 3, -2), ("c", np.array(7, np.float32)))
    check("Pad", x, const(1, 2), None, const(-1), mode="wrap", opset=19)


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_to_space(mode, check):
    check("DepthToSpace", count(1, 8, 2, 3), blocksize=2, mode=mode)


def test_space_to_depth(check):
    check("SpaceToDepth", count(1, 2, 4, 6), blocksize=2)


def test_top_k(x, check):
    check("TopK", x, const(3), outputs=2)
    check("TopK", x, const(2), outputs=2, axis=1, largest=0)


@pytest.mark.parametrize("upper", [0, 1])
def test_triangles(upper, check):
    check("Trilu", count(2, 4, 4), upper=upper)
    check("Trilu", count(2, 4, 4), ("c", np.array(-1)), upper=upper)


def test_einsum(check):
    check("Einsum", count(1, 3, 4), count(1, 4, 2), equation="bij,bjk->bik")


def test_shapes_are_constants(network, agree, x):
    """Exporters compute the target of a Reshape at run time."""
    nodes = [
        helper.make_node("Shape", ["x"], ["s"], "shape"),
        helper.make_node("Gather", ["s", "two"], ["h"], "gather"),
        helper.make_node("Mul", ["h", "two"], ["m"], "mul"),
        helper.make_node("Unsqueeze", ["m", "zero"], ["u"], "unsqueeze"),
        helper.make_node("Concat", ["one", "u", "rest"], ["t"], "concat", axis=0),
        helper.make_node("Reshape", ["x", "t"], ["y"], "reshape"),
    ]
    constants = {"two": np.array(2), "zero": np.array([0]), "one": np.array([1]), "rest": np.array([-1])}

    module = agree(network(nodes, {"x": x}, constants, ["y"]), {"x": x})

    assert [n.meta["onnx"][0] for n in module.graph.nodes if n.op == "call_function"] == ["reshape"]


def test_a_computed_shape_that_depends_on_values_is_an_error(network, x):
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["s"], "sum", keepdims=0),
        helper.make_node("Cast", ["s"], ["c"], "cast", to=7),
        helper.make_node("Reshape", ["c", "one"], ["n"], "first"),
        helper.make_node("Expand", ["x", "n"], ["y"], "expand"),
    ]
    model = network(nodes, {"x": x}, {"one": np.array([1])}, ["c"])
    model.graph.output[0].name = "y"

    with pytest.raises(ModelError, match=r"node 'expand' \(Expand\): expected a constant input 1"):
        import_onnx(model)


def test_several_images_go_through_a_reshape(network):
    values = count(1, 2, 3, 4)
    nodes = [helper.make_node("Reshape", ["x", "s"], ["y"], "n")]
    module = import_onnx(network(nodes, {"x": values}, {"s": np.array([1, 6, 4])}, ["y"]))

    assert module(torch.zeros(5, 2, 3, 4)).shape == (5, 6, 4)


def test_every_operator_of_the_module_was_here():
    tested = {"Concat", "DepthToSpace", "Einsum", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Pad"}
    tested |= {"Reshape", "ScatterElements", "ScatterND", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "TopK"}
    assert set(LOWERINGS) == tested | {"Transpose", "Trilu", "Unsqueeze"}
