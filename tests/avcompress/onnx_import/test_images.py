"""avcompress.onnx_import: networks that were exported for one image take several, or say which operator cannot."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from avcompress.onnx_import import import_onnx
from avcompress.spec import ModelError
from avcompress.train.recovery import refuse_several

COUNT = 3


def values(*shape, seed=0):
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


def integers(*numbers):
    return np.array(numbers, np.int64)


def node(kind, inputs, output, **attributes):
    return helper.make_node(kind, inputs.split(), [output], f"to {output}", **attributes)


def together_and_apart(module, shape):
    """What the module gives for several images at once, and for each alone."""
    images = torch.from_numpy(values(COUNT, *shape[1:]))
    with torch.no_grad():
        return module(images), torch.cat([module(images[i : i + 1]) for i in range(COUNT)])


TAKES_SEVERAL = {
    "softmax of rows, as old opsets are converted": (
        (1, 6, 2),
        [node("Flatten", "x", "f", axis=2), node("Softmax", "f", "s", axis=-1), node("Reshape", "s shape", "y")],
        {"shape": integers(1, 6, 2)},
    ),
    "rows through a linear layer": (
        (1, 6, 4),
        [node("Reshape", "x rows", "f"), node("MatMul", "f w", "m"), node("Reshape", "m shape", "y")],
        {"rows": integers(-1, 4), "w": values(4, 5), "shape": integers(1, 6, 5)},
    ),
    "attention within windows": (
        (1, 8, 3),
        [
            node("Reshape", "x windows", "a"),
            node("Transpose", "a", "t", perm=[0, 2, 1]),
            node("MatMul", "a t", "m"),
            node("Softmax", "m", "s", axis=-1),
            node("MatMul", "s a", "b"),
            node("Reshape", "b shape", "y"),
        ],
        {"windows": integers(4, 2, 3), "shape": integers(1, 8, 3)},
    ),
    "query, key and value in front of the images": (
        (1, 4, 12),
        [
            node("Reshape", "x five", "a"),
            node("Transpose", "a", "t", perm=[2, 0, 3, 1, 4]),
            node("Gather", "t first", "q", axis=0),
            node("Reshape", "q shape", "y"),
        ],
        {"five": integers(1, 4, 3, 2, 2), "first": np.array(1, np.int64), "shape": integers(1, -1)},
    ),
    "positions in front of the images": (
        (1, 5, 4),
        [
            node("Transpose", "x", "t", perm=[1, 0, 2]),
            node("Reshape", "t heads", "h"),
            node("Transpose", "h", "b", perm=[1, 0, 2]),
            node("Softmax", "b", "s", axis=1),
            node("Transpose", "s", "c", perm=[1, 0, 2]),
            node("Reshape", "c back", "d"),
            node("Transpose", "d", "y", perm=[1, 0, 2]),
        ],
        {"heads": integers(5, 2, 2), "back": integers(5, 1, 4)},
    ),
    "a token that is the same for all": (
        (1, 5, 4),
        [node("Concat", "token x", "y", axis=1)],
        {"token": values(1, 1, 4)},
    ),
    "a slice of all images": (
        (1, 5, 4),
        [node("Slice", "x starts ends axes", "y")],
        {"starts": integers(0, 1), "ends": integers(2**62, 3), "axes": integers(0, 1)},
    ),
    "all values in a row and back": (
        (1, 5, 4),
        [node("Flatten", "x", "f", axis=0), node("Reshape", "f shape", "y")],
        {"shape": integers(1, 5, 4)},
    ),
}


@pytest.mark.parametrize("case", sorted(TAKES_SEVERAL))
def test_several_images_give_what_each_gives_alone(case, network, agree):
    shape, nodes, constants = TAKES_SEVERAL[case]

    module = agree(network(nodes, {"x": values(*shape)}, constants, ["y"]), {"x": values(*shape)})

    assert module.meta["one_image"] == ""
    torch.testing.assert_close(*together_and_apart(module, shape))


ONE_ALONE = {
    "Gather": ([node("Gather", "x zero", "y", axis=0)], {"zero": np.array(0, np.int64)}),
    "Softmax": ([node("Softmax", "x", "y", axis=0)], {}),
    "Concat": ([node("Concat", "x x", "y", axis=0)], {}),
    "Tile": ([node("Tile", "x twice", "y")], {"twice": integers(2, 1, 1)}),
    "ReduceSum": ([node("ReduceSum", "x axes", "s", keepdims=1), node("Relu", "s", "y")], {"axes": integers(0, 1)}),
    "ScatterND": (
        [node("ScatterND", "x at new", "y")],
        {"at": np.zeros((1, 1), np.int64), "new": values(1, 5, 4)},
    ),
    "CumSum": ([node("CumSum", "x zero", "y")], {"zero": np.array(0, np.int64)}),
    "Squeeze": ([node("Squeeze", "x zero", "y")], {"zero": integers(0)}),
    "InstanceNormalization": (
        [node("Transpose", "x", "t", perm=[1, 2, 0]), node("InstanceNormalization", "t s b", "y")],
        {"s": values(4), "b": values(4)},
    ),
}


@pytest.mark.parametrize("kind", sorted(ONE_ALONE))
def test_the_first_operator_that_mixes_images_is_named(kind, network):
    nodes, constants = ONE_ALONE[kind]

    module = import_onnx(network(nodes, {"x": values(1, 5, 4)}, constants, ["y"]))

    (mixer,) = [node for node in nodes if node.op_type == kind]
    assert module.meta["one_image"] == f"node {mixer.name!r} ({kind})"


def test_an_output_whose_images_do_not_come_first_is_named(network):
    module = import_onnx(network([node("Transpose", "x", "y", perm=[1, 0, 2])], {"x": values(1, 5, 4)}, {}, ["y"]))

    assert module.meta["one_image"] == "output 'y' (5, 1, 4)"


def test_a_mixing_operator_beside_the_outputs_does_not_matter(network):
    nodes = [node("Gather", "x zero", "g", axis=0), node("Relu", "x", "y")]

    module = import_onnx(network(nodes, {"x": values(1, 5, 4)}, {"zero": np.array(0, np.int64)}, ["y"]))

    assert module.meta["one_image"] == ""


def test_what_takes_no_images_has_no_such_limit(network):
    module = import_onnx(network([node("Softmax", "x", "y", axis=0)], {"x": values(5, 4)}, {}, ["y"]))

    assert module.meta["one_image"] == ""


def test_several_images_for_a_network_of_one_are_refused_with_what_to_do(network):
    module = import_onnx(network([node("Softmax", "x", "y", axis=0)], {"x": values(1, 5, 4)}, {}, ["y"]))

    refuse_several(module, torch.zeros(1, 5, 4))
    with pytest.raises(
        ModelError, match=r"^node 'to y' \(Softmax\): expected one image at a time, .*, got 2; set accumulate to"
    ):
        refuse_several(module, torch.zeros(2, 5, 4))


# --- no chain of operators is silently wrong


def factors(number, rank, choose):
    """A shape of that many values."""
    shape = []
    for _ in range(rank - 1):
        shape.append(choose([d for d in range(1, number + 1) if number % d == 0]))
        number //= shape[-1]
    return (*shape, number)


def step(shape, index, choose):
    """One operator on a tensor of a shape: its node's parts, its constants, the new shape."""
    here, there, axis = f"t{index}", f"t{index + 1}", choose(range(len(shape)))
    constant = f"c{index}"
    match choose(["reshape", "reshape", "transpose", "softmax", "sum", "twice", "token", "first", "linear"]):
        case "reshape":
            new = factors(math.prod(shape), choose([1, 2, 3, 4]), choose)
            return node("Reshape", f"{here} {constant}", there), {constant: integers(*new)}, new
        case "transpose":
            order = list(range(len(shape)))
            order.insert(choose(range(len(shape))), order.pop(axis))
            return node("Transpose", here, there, perm=order), {}, tuple(shape[i] for i in order)
        case "softmax":
            return node("Softmax", here, there, axis=axis), {}, shape
        case "sum":
            new = (*shape[:axis], 1, *shape[axis + 1 :])
            return node("ReduceSum", f"{here} {constant}", there), {constant: integers(axis)}, new
        case "twice":
            new = (*shape[:axis], 2 * shape[axis], *shape[axis + 1 :])
            return node("Concat", f"{here} {here}", there, axis=axis), {}, new
        case "token":
            new = (*shape[:axis], 1 + shape[axis], *shape[axis + 1 :])
            token = values(*shape[:axis], 1, *shape[axis + 1 :], seed=index)
            return node("Concat", f"{constant} {here}", there, axis=axis), {constant: token}, new
        case "first":
            new = (*shape[:axis], 1, *shape[axis + 1 :])
            return node("Gather", f"{here} {constant}", there, axis=axis), {constant: integers(0)}, new
        case _:
            new = (*shape[:-1], 3)
            return node("MatMul", f"{here} {constant}", there), {constant: values(shape[-1], 3, seed=index)}, new


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_any_chain_of_operators_takes_several_images_rightly_or_says_that_it_does_not(network, data):
    def choose(options):
        return data.draw(st.sampled_from(list(options)))

    shape = start = (1, *choose([(4, 6), (2, 3), (1, 4), (6,)]))
    nodes, constants = [], {}
    for index in range(choose([1, 2, 3, 4, 5])):
        made, beside, shape = step(shape, index, choose)
        nodes.append(made)
        constants.update(beside)

    module = import_onnx(network(nodes, {"t0": values(*start)}, constants, [f"t{len(nodes)}"]))

    if not module.meta["one_image"]:
        torch.testing.assert_close(*together_and_apart(module, start))
